"""The main job from Python."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from staff import pipeline
from staff.progress import Progress
from staff.runs.config import SelectConfig
from staff.runs.config_file import build


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: its folder, its manifest (docs/formats.md) and its coreset files."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def coresets(self) -> dict[str, Path]:
        """Coreset name (``"0.1"``, ``"n400"``) -> file."""
        return {c["name"]: self.folder / c["path"] for c in self.manifest["coresets"]}

    def table(self) -> dict[str, Any]:
        """Columns of selection.parquet by name, NumPy arrays [n]."""
        from staff.runs.selection_file import read_selection

        return read_selection(self.folder / "selection.parquet")


def select_coreset(
    data: str | Path,
    *,
    small: str | Path,
    target: str | Path,
    out: str | Path,
    keep: float | Sequence[float] = (),
    total: int | Sequence[int] = (),
    progress: Progress | None = None,
    **settings: Any,
) -> Run:
    """Do what `staff select` does, with the same settings under the same names.

    data: a file, a `save_to_disk` folder or a Hub id. small, target: model folders or Hub
    ids of one family. keep: fractions in (0, 1]; total: numbers of rows; at least one of
    them. settings: any other field of `staff.runs.config.SelectConfig`, e.g. ``seed=1``,
    ``regions=100``, ``prompt_column="question"``.

    A finished stage of an earlier call with the same settings and `out` is not done again.

    Raises:
        ConfigError, DataError, ModelError, RunError: what is wrong and what to do.
    """
    from staff.checks import check_inputs

    config = build(
        SelectConfig,
        flags={
            "data": str(data),
            "small": str(small),
            "target": str(target),
            "out": str(out),
            "keep": keep,
            "total": total,
            **settings,
        },
    )
    check_inputs(config)
    manifest = pipeline.select(config, progress=progress)
    return Run(Path(config.folder), manifest)
