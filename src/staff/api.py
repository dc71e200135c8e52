"""The main job from Python."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, overload

from staff import pipeline
from staff.checks import check_inputs, with_sibling
from staff.data.in_memory import is_dataset, keep_rows
from staff.errors import ConfigError
from staff.models.in_memory import is_loaded, keep_model
from staff.models.trust import Trust
from staff.progress import WARNING, Progress
from staff.runs.config import SelectConfig
from staff.runs.config_file import build
from staff.runs.manifest import read_manifest
from staff.runs.store import RunFolder
from staff.runs.unheeded import unheeded
from staff.team import gathers

PACKAGE = Path(__file__).parent

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


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

    def __repr__(self) -> str:
        """The run in a line: the whole manifest would fill screens."""
        if not self.manifest:  # of a process that has nothing to help with
            return f"Run(folder={str(self.folder)!r})"
        told: dict[str, Any] = {
            "folder": str(self.folder),
            "method": self.manifest["config"]["method"],
            "usable_rows": self.manifest["data"]["rows_usable"],
            "coresets": {c["name"]: c["total"] for c in self.manifest["coresets"]},
        }
        if proxy := self.manifest.get("proxy"):
            told["proxy"] = proxy["verdict"]
        return f"Run({', '.join(f'{name}={value!r}' for name, value in told.items())})"


Model = str | Path | tuple[Any, Any]


@overload
def select_coreset(data: "Dataset", **settings: Any) -> "Dataset | DatasetDict": ...


@overload
def select_coreset(data: str | Path | None = None, **settings: Any) -> Run: ...


def select_coreset(
    data: "str | Path | Dataset | None" = None,
    *,
    small: Model | None = None,
    target: Model | None = None,
    out: str | Path | None = None,
    scores: "str | Path | Run | None" = None,
    keep: float | Sequence[float] | None = None,
    total: int | Sequence[int] | None = None,
    progress: Progress | bool | None = None,
    **settings: Any,
) -> "Run | Dataset | DatasetDict":
    """Select coresets as `staff select` does, with the same settings under the same names.

    data: what `staff select` reads (a file, a folder, a pattern, a Hub id) or a `datasets.Dataset`
    of one split. small, target: model folders or Hub ids of one family, or loaded models with their
    tokenizers, ``(model, tokenizer)``; small="auto" takes the target's small model from a table.
    out: the run folder. keep: fractions in (0, 1]; total: numbers of rows; give at least one of
    them. scores: instead of data and models, an earlier `Run` or its folder, to select from again;
    its method, seed, quotas and other settings of the selection hold unless others are given.
    progress: True for progress bars in a notebook or on a terminal. settings: any other of `staff
    select`, all in docs/reference/cli.md, as a keyword: ``seed=1``, ``prompt_column="question"``
    for ``--prompt-column question``.

    Returns a `Run`. If `data` is a `Dataset`, returns a `Dataset` of the chosen rows in their
    original order, or for several sizes a `DatasetDict` by name (``"0.1"``, ``"n400"``).

    Rows and models in memory are saved next to the run, which reads them from there: rows as
    ``OUT-data.parquet``, models as ``OUT-small`` and ``OUT-target`` (give a large model by its path
    instead: it would be in memory twice). With a `Dataset` and no `out`, nothing is left on disk.

    Finished stages of an earlier call with the same settings and `out` are reused. What
    `staff select` prints as a warning is a `UserWarning`.

    Raises:
        ConfigError, DataError, ModelError, RunError: what is wrong and what to do.
    """
    sizes = {k: v for k, v in (("keep", keep), ("total", total)) if v is not None}
    flags: dict[str, Any] = {**sizes, **settings}
    in_memory = is_dataset(data)
    loaded: dict[str, Any] = {}
    earlier = scores.folder if isinstance(scores, Run) else scores
    places = {"data": data, "small": small, "target": target, "out": out, "scores": earlier}
    for name, given in places.items():
        if name in ("small", "target") and is_loaded(name, given):
            loaded[name] = given
        elif given is not None and not (name == "data" and in_memory):
            flags[name] = str(given)
    if not in_memory and not loaded:
        return _run(flags, progress)
    if gathers():
        raise ConfigError(
            "data and models in memory belong to one process, and torchrun started several: give "
            "their paths, or start without it"
        )
    with TemporaryDirectory(prefix="staff-") as scratch:
        if in_memory:
            flags.setdefault("out", str(Path(scratch) / "run"))
            flags["data"] = _beside(flags, "data.parquet")
        flags |= {role: _beside(flags, role) for role in loaded}
        config = build(SelectConfig, flags=flags)
        RunFolder(config.folder).check_usable()  # both before anything is written
        if in_memory:
            keep_rows(data, Path(flags["data"]))
        for role, (model, tokenizer) in loaded.items():
            tokenizer_of = partial(_fingerprint, trust=Trust(code=config.trust_remote_code))
            keep_model(model, tokenizer, Path(flags[role]), fingerprint=tokenizer_of)
        run = _run(flags, progress)
        return _chosen(data, run) if in_memory else run


def _beside(flags: Mapping[str, Any], name: str) -> str:
    """Where something of a run is kept; without a run folder nowhere, which `build` refuses."""
    folder = Path(flags.get("out", name))
    if folder.name in ("", ".."):  # as `.` is, and ends in no name
        folder = folder.resolve()
    return str(folder.parent / f"{folder.name}-{name}")


def _fingerprint(folder: Path, *, trust: Trust) -> str:
    """Of all that decides the ids of a folder's tokenizer."""
    from staff.data.tokenise import Tokeniser
    from staff.models.load import load_tokenizer

    return Tokeniser(load_tokenizer(str(folder), trust=trust), max_length=None).fingerprint


def _run(flags: dict[str, Any], progress: Progress | bool | None) -> Run:
    config = with_sibling(build(SelectConfig, flags=flags))
    check_inputs(config)
    for text in unheeded(config, flags):
        _warn(f"{WARNING}{text}")
    if isinstance(progress, bool):
        from staff.reports.bars import bars

        progress = bars() if progress else None
    run = pipeline.reselect if config.scores else pipeline.select
    manifest = run(config, progress=progress, say=_warn)
    if not manifest and not config.scores:  # this process helped the one that wrote it
        manifest = read_manifest(config.folder)
    return Run(Path(config.folder), manifest)


def _warn(text: str) -> None:
    """Pass a warning on to Python's own, of the line that called; nothing else that a run says."""
    if text.startswith(WARNING):
        frame, level = sys._getframe(), 1
        while frame.f_back and Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
            frame, level = frame.f_back, level + 1
        warnings.warn(text.removeprefix(WARNING), stacklevel=level)


def _chosen(rows: Any, run: Run) -> "Dataset | DatasetDict":
    """The rows of each coreset, by their positions in the data."""
    from datasets import DatasetDict

    table = run.table()
    found = {
        name: rows.select(table["row"][table[f"selected@{name}"].astype(bool)])
        for name in run.coresets
    }
    return DatasetDict(found) if len(found) > 1 else next(iter(found.values()))
