"""What is finished, as Python objects: a run, a comparison."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from staff.errors import RunError
from staff.runs.compare_folder import CompareFolder
from staff.runs.manifest import check_selection, read_manifest


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: its folder, its manifest (docs/formats.md) and its coreset files."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """The run in a folder, of `select_coreset` or `staff select`.

        Raises:
            RunError: there is none, it is not finished, is damaged or was made by another command.
        """
        if CompareFolder(folder).is_comparison:
            raise RunError(f"{folder} contains a comparison: Comparison.read takes it")
        manifest = read_manifest(folder)
        if manifest.get("command") != "select":
            raise RunError(
                f"{folder} was made by staff {manifest.get('command')}, not staff select"
            )
        check_selection(folder, manifest)
        return cls(Path(folder), manifest)

    @property
    def coresets(self) -> dict[str, Path]:
        """Coreset name (``"0.1"``, ``"n400"``) -> file."""
        return {c["name"]: self.folder / c["path"] for c in self.manifest["coresets"]}

    @property
    def report(self) -> Path:
        """The run as one HTML page."""
        return self.folder / "report.html"

    def table(self) -> dict[str, Any]:
        """Columns of selection.parquet by name, NumPy arrays [n]; null numbers are NaN.

        Raises:
            RunError: the file is missing or damaged.
        """
        from staff.runs.selection_file import read_selection

        return read_selection(self.folder / "selection.parquet")

    def summary(self, width: int = 80) -> str:
        """What `staff select` prints at its end, in lines of about `width` columns."""
        from staff.reports.text import render

        return render(self.manifest, folder=str(self.folder), width=width)

    def __repr__(self) -> str:
        """The run in a line: the whole manifest would fill screens."""
        told: dict[str, Any] = {
            "folder": str(self.folder),
            "method": self.manifest["config"]["method"],
            "usable_rows": self.manifest["data"]["rows_usable"],
            "coresets": {c["name"]: c["total"] for c in self.manifest["coresets"]},
        }
        if proxy := self.manifest.get("proxy"):
            told["proxy"] = proxy["verdict"]
        return _in_a_line("Run", told)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A finished comparison: its folder and compare.json (docs/formats.md)."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """The comparison in a folder, of `compare_coresets` or `staff compare`.

        Raises:
            RunError: there is none, or it is damaged or not finished; names the missing cells.
        """
        comparison = CompareFolder(folder)
        if not comparison.is_comparison:
            raise RunError(f"{folder} contains no comparison: staff compare makes one")
        comparison.check_finished()
        return cls(Path(folder), read_manifest(folder, name=comparison.manifest.name))

    @property
    def results(self) -> list[dict[str, Any]]:
        """One dictionary a metric, method and size: the rows of results.parquet."""
        return self.manifest["results"]

    @property
    def report(self) -> Path:
        """The comparison as one HTML page."""
        return CompareFolder(self.folder).report

    def summary(self, width: int = 80) -> str:
        """What `staff compare` prints at its end, in lines of about `width` columns."""
        from staff.reports.compared import render_compared

        return render_compared(self.manifest, folder=str(self.folder), width=width)

    def _repr_markdown_(self) -> str:
        """Tables in a notebook."""
        from staff.reports.compared import markdown_compared

        return markdown_compared(self.manifest)

    def __repr__(self) -> str:
        """The comparison in a line."""
        config = self.manifest["config"]
        told = {
            "folder": str(self.folder),
            "methods": [*config["methods"], *config["own"]],
            "keep": config["keep"],
            "seeds": config["seeds"],
            "metrics": config["metrics"],
        }
        return _in_a_line("Comparison", told)


def _in_a_line(kind: str, told: Mapping[str, Any]) -> str:
    return f"{kind}({', '.join(f'{name}={value!r}' for name, value in told.items())})"
