"""The main jobs from Python."""

import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar, overload

from staff import pipeline
from staff.checks import check_inputs, with_sibling
from staff.data.in_memory import is_dataset, keep_rows
from staff.errors import ConfigError, StaffError
from staff.finished import Comparison, Run
from staff.models.in_memory import is_loaded, keep_model
from staff.models.trust import Trust
from staff.progress import WARNING, Progress
from staff.runs.compare_config import CompareConfig
from staff.runs.config import SelectConfig
from staff.runs.config_file import build
from staff.runs.keywords import in_python
from staff.runs.lock import remove_empty
from staff.runs.manifest import read_manifest
from staff.runs.settings import Settings, named
from staff.runs.store import RunFolder
from staff.runs.unheeded import unheeded
from staff.team import gathers

PACKAGE = Path(__file__).parent
MODELS = ("small", "target")

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

Model = str | Path | tuple[Any, Any]
Paired = TypeVar("Paired", SelectConfig, CompareConfig)


# A path first: datasets has no types, so to a type checker its Dataset may be anything.
@overload
def select_coreset(data: str | Path | None = None, **settings: Any) -> Run: ...


@overload
def select_coreset(data: "Dataset", **settings: Any) -> "Dataset | DatasetDict": ...


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
    them, or `tokens`. scores: instead of data and models, an earlier `Run` or its folder, to select
    from again; its method, seed, quotas and other settings of the selection hold unless others are
    given. progress: True for progress bars in a notebook or on a terminal. settings: any other of
    `staff select`, all in docs/reference/cli.md, as a keyword: ``seed=1``,
    ``prompt_column="question"`` for ``--prompt-column question``.

    Returns a `Run`. If `data` is a `Dataset`, returns a `Dataset` of the chosen rows in their
    original order, or for several sizes a `DatasetDict` by name (``"0.1"``, ``"n400"``).

    Rows and models in memory are saved next to the run, which reads them from there: rows as
    ``OUT-data.parquet``, models as ``OUT-small`` and ``OUT-target`` (give a large model by its path
    instead: it would be in memory twice). They stay there unless the call is refused before its
    first result. With a `Dataset` and no `out`, nothing is left on disk.

    Finished stages of an earlier call with the same settings and `out` are reused; a finished run
    of the same is left as it is and returned. What `staff select` prints as a warning is a
    `UserWarning`.

    Raises:
        ConfigError, DataError, ModelError, RunError: what is wrong and what to do.
    """
    settings |= {k: v for k, v in (("keep", keep), ("total", total)) if v is not None}
    earlier = scores.folder if isinstance(scores, Run) else scores
    given = {"data": data, "small": small, "target": target, "out": out, "scores": earlier}
    with _in_python(SelectConfig), _on_disk(given, settings, SelectConfig) as flags:
        run = _run(flags, progress)
        return _chosen(data, run) if is_dataset(data) else run


def compare_coresets(
    data: "str | Path | Dataset | None" = None,
    *,
    test: "str | Path | Dataset | None" = None,
    target: Model | None = None,
    small: Model | None = None,
    methods: Sequence[str] | None = None,
    own: Mapping[str, str | Path] | None = None,
    keep: float | Sequence[float] | None = None,
    seeds: int | None = None,
    out: str | Path | None = None,
    progress: Progress | bool | None = None,
    **settings: Any,
) -> Comparison:
    """Compare selection methods as `staff compare` does: is one better than a random subset here?

    data, small, target, progress: as `select_coreset` takes them. test: rows to evaluate on, in the
    format of the data. methods: of selection; own: files of your own coresets by name, compared
    like methods, ``{"mine": "mine.jsonl"}``. keep: fractions in (0, 1]. seeds: repetitions. out:
    the comparison's folder. settings: any other of `staff compare`, all in docs/reference/cli.md,
    as a keyword.

    Rows and models in memory are saved next to the folder: ``OUT-data.parquet``,
    ``OUT-test.parquet``, ``OUT-small``, ``OUT-target``.

    Called again with the same `out`, it computes only what is missing: methods, sizes and seeds
    can be added. What `staff compare` prints as a warning is a `UserWarning`.

    Returns a `Comparison`; a notebook shows it as tables, ``print(it.summary())`` prints it.

    Raises:
        ConfigError, DataError, ModelError, RunError: what is wrong and what to do.
    """
    listed = {"methods": methods, "keep": keep, "seeds": seeds}
    settings |= {name: value for name, value in listed.items() if value is not None}
    if own is not None:
        settings["own"] = _files(own)
    given = {"data": data, "test": test, "small": small, "target": target, "out": out}
    with _in_python(CompareConfig), _on_disk(given, settings, CompareConfig) as flags:
        config = _settings(CompareConfig, flags)
        if gathers():
            raise ConfigError("a comparison works in one process: start it without torchrun")
        from staff.compare.run import compare

        found = compare(config, progress=_shown(progress), say=partial(_warn, CompareConfig))
        return Comparison(Path(config.folder), found)


def _files(own: Any) -> dict[str, str]:
    """The user's coresets: a file by each name.

    Raises:
        ConfigError: they are given in another way; says how.
    """
    if not isinstance(own, Mapping):
        raise ConfigError('own takes files by name: own={"mine": "mine.jsonl"}')
    for name, file in own.items():
        if not isinstance(file, str | Path):
            raise ConfigError(
                f"own has a {type(file).__name__} as {name!r}: write the rows to a file "
                f'(Dataset.to_parquet) and give its path, own={{{name!r}: "mine.parquet"}}. Of '
                "several sizes the path has {keep} in it"
            )
    return {name: str(file) for name, file in own.items()}


@contextmanager
def _retold(change: Callable[[str], str]) -> Iterator[None]:
    """Errors in other words."""
    try:
        yield
    except StaffError as error:
        error.args = (change(str(error)),)
        raise


def _in_python(kind: type[Settings]) -> AbstractContextManager[None]:
    """Errors that name flags name keywords instead."""
    return _retold(partial(in_python, config=kind))


@contextmanager
def _on_disk(
    given: Mapping[str, Any], settings: Mapping[str, Any], kind: type[Paired]
) -> Iterator[dict[str, Any]]:
    """The settings of a job; rows and models in memory are kept in files beside its folder.

    given: data, models and folders by the names of their settings, None where there is none.
    Without a folder the rows' run is in one that is removed at the end.
    """
    rows: dict[str, Any] = {}
    models: dict[str, Any] = {}
    flags = dict(settings)
    for name, value in given.items():
        if name in ("data", "test") and is_dataset(value, name=name):
            rows[name] = value
        elif name in MODELS and is_loaded(name, value):
            models[name] = value
        elif value is not None:
            flags[name] = str(value)
    if not rows and not models:
        yield flags
        return
    if gathers():
        raise ConfigError(
            "data and models in memory belong to one process, and torchrun started several: give "
            "their paths, or start without it"
        )
    with TemporaryDirectory(prefix="staff-") as scratch, _unlocated(scratch):
        if rows and kind is SelectConfig:
            flags.setdefault("out", str(Path(scratch) / "run"))
        flags |= {name: _beside(flags, f"{name}.parquet") for name in rows}
        flags |= {role: _beside(flags, role) for role in models}
        config = build(kind, flags=flags)
        RunFolder(config.folder).check_usable()  # both before anything is written
        # By the settings, which write out a leading ~, as the run does that reads them.
        places = {name: Path(str(getattr(config, name))) for name in (*rows, *models)}
        with _taken_away_if_refused(Path(config.folder)) as new:
            for name, dataset in rows.items():
                if keep_rows(dataset, places[name]):
                    new.append(places[name])
            for role, (model, tokenizer) in models.items():
                tokenizer_of = partial(_fingerprint, trust=Trust(code=config.trust_remote_code))
                if keep_model(model, tokenizer, places[role], fingerprint=tokenizer_of):
                    new.append(places[role])
            yield flags


@contextmanager
def _taken_away_if_refused(folder: Path) -> Iterator[list[Path]]:
    """Remove what was put beside a run, as listed in what this gives, if the run is refused.

    A run that is refused before its first result takes its folder away. What stayed beside it
    would be in the way of the same call with the fault in the rows mended: those are other rows.
    """
    new: list[Path] = []
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        yield new
    except StaffError:
        run = RunFolder(folder)
        if not (run.config.exists() or run.has_results):
            for path in new:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
            remove_empty(made)
        raise


def _unlocated(scratch: str) -> AbstractContextManager[None]:
    """Errors do not name files that are gone when they are read: data instead of its file."""
    return _retold(lambda text: text.replace(str(Path(scratch) / "run-data.parquet"), "data"))


def _beside(flags: Mapping[str, Any], name: str) -> str:
    """Where something of a run is kept; without a run folder nowhere, which `build` refuses."""
    folder = Path(named(str(flags.get("out", name))))
    return str(folder.parent / f"{folder.name}-{name}")


def _fingerprint(folder: Path, *, trust: Trust) -> str:
    """Of all that decides the ids of a folder's tokenizer."""
    from staff.data.tokenise import Tokeniser
    from staff.models.load import load_tokenizer

    return Tokeniser(load_tokenizer(str(folder), trust=trust), max_length=None).fingerprint


def _settings(kind: type[Paired], flags: Mapping[str, Any]) -> Paired:
    """The settings of a job, checked like those of its command."""
    config = with_sibling(build(kind, flags=flags))
    check_inputs(config)
    for text in unheeded(config, flags):
        _warn(kind, f"{WARNING}{text}")
    return config


def _run(flags: dict[str, Any], progress: Progress | bool | None) -> Run:
    config = _settings(SelectConfig, flags)
    run = pipeline.reselect if config.scores else pipeline.select
    manifest = run(config, progress=_shown(progress), say=partial(_warn, SelectConfig))
    if not manifest:  # this process helped the one that wrote it
        manifest = read_manifest(config.folder)
    return Run(Path(config.folder), manifest)


def _shown(progress: Progress | bool | None) -> Progress | None:
    """Bars where True is given."""
    if not isinstance(progress, bool):
        return progress
    from staff.reports.bars import bars

    return bars() if progress else None


def _warn(kind: type[Settings], text: str) -> None:
    """Pass a warning on to Python's own, of the line that called; nothing else that a run says."""
    if text.startswith(WARNING):
        frame, level = sys._getframe(), 1
        while frame.f_back and Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
            frame, level = frame.f_back, level + 1
        warnings.warn(in_python(text.removeprefix(WARNING), kind), stacklevel=level)


def _chosen(rows: Any, run: Run) -> "Dataset | DatasetDict":
    """The rows of each coreset, by their positions in the data."""
    from datasets import DatasetDict

    table = run.table()
    found = {
        name: rows.select(table["row"][table[f"selected@{name}"].astype(bool)])
        for name in run.coresets
    }
    return DatasetDict(found) if len(found) > 1 else next(iter(found.values()))
