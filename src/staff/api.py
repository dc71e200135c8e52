"""The main job from Python."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from staff import pipeline
from staff.checks import check_inputs, with_sibling
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
    data: str | Path | None = None,
    *,
    small: str | Path | None = None,
    target: str | Path | None = None,
    out: str | Path | None = None,
    scores: str | Path | None = None,
    keep: float | Sequence[float] | None = None,
    total: int | Sequence[int] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Run:
    """Do what `staff select` does, with the same settings under the same names.

    data: a file, a `save_to_disk` folder or a Hub id. small, target: model folders or Hub
    ids of one family; small="auto" takes the target's from a table. out: the run folder.
    keep: fractions in (0, 1]; total: numbers of rows; at least one of them. scores: instead of
    data and models, the folder of an earlier run to select from again. settings: any other field of
    `staff.runs.config.SelectConfig`, e.g. ``seed=1``, ``prompt_column="question"``.

    A finished stage of an earlier call with the same settings and `out` is not done again.

    Raises:
        ConfigError, DataError, ModelError, RunError: what is wrong and what to do.
    """
    given = {"data": data, "small": small, "target": target, "out": out, "scores": scores}
    flags = {name: str(value) for name, value in given.items() if value is not None}
    sizes = {k: v for k, v in (("keep", keep), ("total", total)) if v is not None}
    config = with_sibling(build(SelectConfig, flags={**flags, **sizes, **settings}))
    check_inputs(config)
    run = pipeline.reselect if config.scores else pipeline.select
    manifest = run(config, progress=progress)
    return Run(Path(config.folder), manifest)
