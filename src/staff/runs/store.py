"""The run folder: where each file is, atomic writing, and the refusal of foreign folders."""

import json
import os
import re
import shlex
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from staff.data.writers import replacing
from staff.errors import ConfigError, ProcessGoneError, RunError, StaffError
from staff.notes import read_note
from staff.runs.compare_config import CompareConfig
from staff.runs.config import FREE, SCORE_KEYS, SelectConfig
from staff.runs.config_file import build, dump_yaml, load_yaml, written_by
from staff.runs.links import listed, refuse_links_out
from staff.runs.lock import hold, remove_empty
from staff.runs.settings import Settings

# What --overwrite removes, by its exact name, beside the coresets and manifest.json. config.yaml
# is replaced, never removed: it says that the folder is ours.
OWN = (
    *("selection.parquet", "rejected.jsonl", "report.html"),
    *(".stages.json", ".inputs.json", ".manifest.earlier.json"),
    *("adapter/adapter_model.safetensors", "adapter/adapter_config.json"),
    *("adapter/loss.jsonl", "adapter/staff.json"),
)
PARTS = "scores/*/part-[0-9][0-9][0-9][0-9][0-9].parquet"
CHECKPOINTS = ".adapter.partial/checkpoint-*"
FOLDERS = ("adapter", "scores/small", "scores/alone", "scores/target", "scores/untuned", "scores")
PART = ".*.part"
# What a killed process leaves of a file or an adapter; `staff finetune` may keep checkpoints of
# other names in a run folder.
TEMPORARY = (PART, ".adapter.partial", ".adapter.cached.partial")
HEAD = b"# staff "  # how the config.yaml of a run begins: see `dump_yaml`
CORESET = re.compile(r"coreset-([nt]\d+|\d(\.\d+)?)\.(jsonl|json|csv|parquet)")
# Settings that are paths.
INPUTS = ("data", "test", "small", "target", "model", "adapter", "scores", "include", "exclude")


def write_atomic(path: str | Path, content: bytes | str | Callable[[BinaryIO], None]) -> None:
    """Write a file so that it is either whole or not there: see `staff.data.writers.replacing`.

    content: the bytes, the text (UTF-8), or a function that writes to an open file.
    """
    with replacing(Path(path)) as part, part.open("wb") as file:
        if callable(content):
            content(file)
        else:
            # Half of a surrogate pair, from a column's name say, as JSON and YAML escape it.
            if isinstance(content, str):
                content = content.encode(errors="backslashreplace")
            file.write(content)


class RunFolder:
    """The files of one run (schemas in docs/formats.md). Making one touches nothing."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.adapter = self.path / "adapter"
        self.scores_small = self.path / "scores" / "small"
        self.scores_alone = self.path / "scores" / "alone"
        self.scores_target = self.path / "scores" / "target"
        self.scores_untuned = self.path / "scores" / "untuned"
        self.selection = self.path / "selection.parquet"
        self.rejected = self.path / "rejected.jsonl"
        self.report = self.path / "report.html"
        self.manifest = self.path / "manifest.json"

    def coreset(self, name: str, format: str = "jsonl") -> Path:
        """Path of one coreset, e.g. ``coreset-0.1.jsonl``."""
        return self.path / f"coreset-{name}.{format}"

    def outputs(self) -> list[Path]:
        """What there is of a run's files and folders, sorted; without manifest.json.

        Nor report.html: it has times in it, and can be written again from the others.
        """
        names = ("config.yaml", "adapter", "scores", "selection.parquet", "rejected.jsonl")
        found = [path for name in names if (path := self.path / name).exists()]
        coresets = (p for p in self.path.glob("coreset-*") if CORESET.fullmatch(p.name))
        return sorted([*found, *(path for path in coresets if path.is_file())])

    @property
    def finished(self) -> bool:
        """Whether the last file, manifest.json, is there."""
        return self.manifest.is_file()

    @property
    def has_results(self) -> bool:
        """Whether something is here that took work: an adapter, scores, cells, a finished run."""
        compared = (self.path / "cells").is_dir()  # by staff compare: see compare_folder.py
        tuned = self.adapter.is_dir() or self._has(CHECKPOINTS)
        return self.finished or compared or tuned or self._has(PARTS)

    def _has(self, pattern: str) -> bool:
        try:
            return any(self.path.glob(pattern))
        except FileNotFoundError:  # a folder that another process has removed meanwhile
            return False

    @property
    def sealed(self) -> bool:
        """Whether a finished run is here, where nobody can write: it can be left as it is."""
        return self.finished and not _writable(self.path) and self.path.exists()

    def check_writable(self) -> None:
        """Raise `StaffError` without permission to write: what is sealed is not what is asked."""
        check_place(self.path)

    def start(self, config: Settings, *, overwrite: bool = False) -> None:
        """Make sure that a run with `config` may go here; nothing of an earlier one changes.

        Raises:
            RunError: the folder holds results of another configuration (names the setting
                and both values) and not `overwrite`, or files that are no run of ours.
        """
        self.check_same_config(config, overwrite=overwrite)
        self.path.mkdir(parents=True, exist_ok=True)

    def begin_writing(self, config: Settings) -> None:
        """Begin to change files, once all that may be refused was checked.

        The manifest goes first (an earlier run here is unfinished again), then with
        ``config.overwrite`` all that it left; config.yaml is written. Without it scores and
        adapter stay: their fingerprints tell whether they still serve.
        """
        if getattr(config, "overwrite", False):
            self.clear()
        else:
            self._note_coresets()
            self.manifest.unlink(missing_ok=True)
        if isinstance(config, SelectConfig):
            self.report.unlink(missing_ok=True)  # it tells of the earlier selection
        self.sweep()
        again = f"staff {config.command} --config {shlex.quote(str(self.config))}"
        write_atomic(self.config, dump_yaml(config, replay=again))

    def check_same_config(self, config: Settings, *, overwrite: bool = False) -> None:
        """Raise `RunError` if this folder cannot take a run with `config`; changes nothing.

        Results that are here must be of the same command, with the same value of every
        setting that they depend on.
        """
        self.check_usable()
        check_inputs_outside(config, self.path)
        compared = (self.path / "compare.json").is_file()
        if compared or (self.has_results and written_by(self.config) == "compare"):
            # What a comparison leaves is not ours to clear, and would be reported in our place.
            raise RunError(f"{self.path} was made by staff compare: choose another --out")
        if overwrite or not self.config.is_file() or not self.has_results:
            return
        command = written_by(self.config)
        if command not in (None, config.command):
            raise RunError(
                f"{self.path} was made by staff {command}: choose another --out, or add --overwrite"
            )
        keys = SCORE_KEYS if isinstance(config, SelectConfig) else type(config).ordered()
        defaults = {name: field.default for name, field in type(config).model_fields.items()}
        try:
            before = defaults | load_yaml(self.config, type(config))
        except ConfigError as error:
            raise RunError(f"{error}; choose another --out, or add --overwrite") from None
        now = config.model_dump(mode="json")
        free = FREE if config.scores_hang_on_seed else FREE | {"seed"}
        refuse_other_settings(self.path, before, now, [key for key in keys if key not in free])

    def check_usable(self) -> None:
        """Raise `RunError` if this is a file, a folder of somebody else's files, or leads out.

        `StaffError` without permission to write, unless it is `sealed`: see `check_writable`.
        """
        if not self.sealed:
            check_place(self.path)
        refuse_links_out(self.path)
        # Looked through first: what another process leaves meanwhile, it leaves after config.yaml.
        others = self._others()
        if others and not self._is_ours and any(map(os.path.lexists, others)):
            raise RunError(
                f"{self.path} contains files but no staff run: choose another folder for --out"
            )

    def sweep(self) -> None:
        """Remove half-written files of a killed process; whoever holds the lock may."""
        own = (self.path / name for name in FOLDERS)
        for folder in (self.path, *own, *self.path.glob("cells/*")):
            for path in folder.glob(PART):
                _remove(path)

    def clear(self) -> None:
        """Remove what a run leaves, and nothing else. The manifest goes first.

        A file that lies beside ours, in whichever folder, stays.
        """
        coresets = self._coresets_of(self.manifest) | self._coresets_of(self._earlier)
        coresets |= self._coresets_asked_for()
        self.manifest.unlink(missing_ok=True)
        # Coresets before the note that names them: a start that is killed leaves none for good.
        for path in (self.path / name for name in (*sorted(coresets), *OWN)):
            if path.is_file() or path.is_symlink():
                path.unlink()
        for path in sorted(self.path.glob(PARTS)):
            path.unlink()
        for folder in (self.path, *(self.path / name for name in FOLDERS)):
            for path in [path for pattern in TEMPORARY for path in folder.glob(pattern)]:
                _remove(path)
            if folder != self.path and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _note_coresets(self) -> None:
        """Write down the coresets of earlier selections here, for `remove_other_coresets`.

        Of finished ones, and of those that were stopped, as their settings name them.
        """
        coresets = self._coresets_of(self.manifest) | self._coresets_of(self._earlier)
        if self.config.is_file():
            coresets |= self._coresets_asked_for()
        if coresets:
            noted = {"coresets": [{"path": name} for name in sorted(coresets)]}
            write_atomic(self._earlier, json.dumps(noted))

    def remove_other_coresets(self, names: list[str], *, format: str = "jsonl") -> None:
        """Remove the coreset files of the earlier selection here but those of `names`.

        Only files that its manifest names, and no folder.
        """
        ours = {self.coreset(name, format).name for name in names}
        for name in sorted(self._coresets_of(self._earlier) - ours):
            if (self.path / name).is_file():
                (self.path / name).unlink()
        self._earlier.unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second process out of this folder while the block runs.

        The lock is dropped when a process dies, however it dies; its file stays, unless a first
        run is refused, which takes its folder away again. Raises `RunError` when another process
        holds it, or this is no folder of ours. Where nothing can be written there is no lock.
        """
        self.check_usable()
        if self.sealed:
            yield
            return
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        lock = self.path / ".lock"
        with hold(lock, place=self.path):
            new = not (self.config.exists() or self.has_results)  # of others, who have left, too
            try:
                yield
            except ProcessGoneError:  # it was not refused: what was read serves the next start
                raise
            except StaffError:
                if new and not self.has_results:
                    self._take_away(made)
                raise
            except OSError as error:
                if not lock.exists():
                    raise self.removed() from error
                raise

    def removed(self) -> RunError:
        """The error for a folder that somebody took away from a run."""
        return RunError(
            f"{self.path} was removed or emptied while a run was using it: run the same command "
            "again"
        )

    def _take_away(self, made: list[Path]) -> None:
        """Remove what a run left that was refused before its first result, and these folders."""
        self.clear()  # also coresets that need no scores, or the same command would be refused
        shutil.rmtree(self.path / "tokens", ignore_errors=True)
        remove_empty(self.path / name for name in FOLDERS)
        self.config.unlink(missing_ok=True)  # as long as anything is here, it says that it is ours
        (self.path / ".lock").unlink(missing_ok=True)
        remove_empty(made)

    @property
    def _earlier(self) -> Path:
        """The manifest of the selection that is being replaced."""
        return self.path / ".manifest.earlier.json"

    @staticmethod
    def _coresets_of(manifest: Path) -> set[str]:
        """Names of the coreset files in a manifest; none if it cannot be read."""
        try:
            listed = read_note(manifest).get("coresets", [])
            names = {str(coreset["path"]) for coreset in listed}
        except (OSError, ValueError, AttributeError, TypeError, KeyError):
            return set()
        return {name for name in names if CORESET.fullmatch(name)}

    def _coresets_asked_for(self) -> set[str]:
        """Names of the coreset files that an unfinished run may have written."""
        try:
            config = build(SelectConfig, file=self.config)
        except StaffError:
            return set()
        return {self.coreset(name, config.format).name for name in config.coreset_names}

    @property
    def _is_ours(self) -> bool:
        """Whether config.yaml is that of a run: a project may have a file of that name, too.

        Where results are, `check_same_config` looks at what is in it.
        """
        try:
            with self.config.open("rb") as file:
                head = file.read(len(HEAD))
        except OSError:  # not there, or not to be read
            return self.config.is_file()
        return head in (b"", HEAD) or self.has_results

    def _others(self) -> list[Path]:
        """What is here, but for what a run leaves that stopped before its first file."""
        return [
            path
            for path in listed(self.path)
            if path.name not in (".lock", ".stages.json", ".inputs.json")
            and not any(path.match(pattern) for pattern in TEMPORARY)
            and not (path.name == "tokens" and _only_tokens(path))
        ]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def refuse_other_settings(
    folder: Path, before: Mapping[str, Any], now: Mapping[str, Any], keys: Iterable[str]
) -> None:
    """Raise `RunError` if one of these settings has another value than when `folder` was made."""
    for key in keys:
        if _one_spelling(key, before[key]) != _one_spelling(key, now[key]):
            raise RunError(
                f"{folder} was made with {key} = {_show(before[key])}, "
                f"now it is {_show(now[key])}: choose another --out, or add --overwrite"
            )


def _one_spelling(key: str, value: Any) -> Any:
    return os.path.realpath(value) if key in INPUTS and isinstance(value, str) else value


def check_place(path: Path) -> None:
    """Raise `RunError` if a folder cannot be made at `path`; `StaffError` without permission."""
    if _is_no_folder(path):
        raise RunError(f"{path} is a file: --out takes a folder")
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    if _is_no_folder(there):
        raise RunError(f"{path} cannot be created: {there} is a file")
    # Asked more than once: a folder that is removed and created again meanwhile is not refused.
    if all(not _writable(there) and there.exists() for _ in range(3)):
        raise StaffError(f"{path}: no permission to write to {there}")


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def _is_no_folder(path: Path) -> bool:
    """Whether something else is there; asked at once, since folders may be removed meanwhile."""
    try:
        return not stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return False


def check_inputs_outside(config: Settings, folder: Path) -> None:
    """Raise `RunError` if a run would read what it is about to replace."""
    named = [(name, getattr(config, name, None)) for name in INPUTS]
    own = config.own_files() if isinstance(config, CompareConfig) else {}
    named += [(f"own {name}", file) for (name, _, _), file in own.items()]
    for name, given in named:
        if given and Path(given).resolve().is_relative_to(folder.resolve()):
            raise RunError(
                f"{name} {given} is in the folder this run writes to, {folder}: choose another "
                "--out"
            )


def _only_tokens(path: Path) -> bool:
    """Whether a folder holds nothing but tokenised rows of a process that was killed."""
    kinds = ("tokens*.arrow", "rejected.jsonl", "sources.json", "prepared.json", *TEMPORARY)
    return path.is_dir() and all(any(p.match(kind) for kind in kinds) for p in listed(path))


def _show(value: Any) -> str:
    return "(not set)" if value is None else repr(value) if isinstance(value, str) else str(value)
