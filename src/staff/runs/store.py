"""The run folder: where each file lies, atomic writing, and the refusal of foreign folders."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from staff.errors import RunError
from staff.runs.config import SCORE_KEYS
from staff.runs.config_file import dump_yaml, load_yaml
from staff.runs.settings import Settings

# Everything a run may leave: what --overwrite removes, and nothing else.
OWN = (
    "manifest.json",  # first: without it the rest is unfinished
    *("adapter", "scores", "tokens", "selection.parquet", "rejected.jsonl", "config.yaml"),
    ".stages.json",
)
INPUTS = ("data", "small", "target", "model", "adapter", "scores")  # settings that are paths
OWN_PATTERNS = ("coreset-*", "random-*", "tuned-*", "evaluate-*", ".*.partial")


def write_atomic(path: str | Path, content: bytes | str | Callable[[BinaryIO], None]) -> None:
    """Write a file so that it is either whole or not there: temporary, fsync, rename.

    content: the bytes, the text (UTF-8), or a function that writes to an open file.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


class RunFolder:
    """The files of one run (schemas in docs/formats.md). Making one touches nothing."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.adapter = self.path / "adapter"
        self.scores_small = self.path / "scores" / "small"
        self.scores_target = self.path / "scores" / "target"
        self.selection = self.path / "selection.parquet"
        self.rejected = self.path / "rejected.jsonl"
        self.manifest = self.path / "manifest.json"

    def coreset(self, name: str, format: str = "jsonl") -> Path:
        """Path of one coreset, e.g. ``coreset-0.1.jsonl``."""
        return self.path / f"coreset-{name}.{format}"

    def outputs(self) -> list[Path]:
        """What there is of a run's files and folders, sorted; without manifest.json."""
        names = (name for name in OWN if name not in ("manifest.json", "tokens", ".stages.json"))
        found = [path for name in names if (path := self.path / name).exists()]
        return sorted([*found, *self.path.glob("coreset-*")])

    @property
    def finished(self) -> bool:
        """Whether the last file, manifest.json, is there."""
        return self.manifest.is_file()

    def start(
        self,
        config: Settings,
        *,
        overwrite: bool = False,
        keys: tuple[str, ...] = SCORE_KEYS,
        replay: str | None = None,
    ) -> None:
        """Make the folder ready for a run with `config` and write config.yaml.

        An earlier run with the same `keys` (what stored scores depend on) is taken up:
        its manifest goes (the run is unfinished again), its scores stay.

        Raises:
            RunError: the folder is of another configuration (names the setting and both
                values), or holds files that are no run of ours.
        """
        self.check_same_config(config, keys=keys, overwrite=overwrite)
        self.path.mkdir(parents=True, exist_ok=True)
        if overwrite:
            self.clear()
        self.manifest.unlink(missing_ok=True)
        replay = replay or f"staff select --config {self.config}"
        write_atomic(self.config, dump_yaml(config, replay=replay))

    def check_same_config(
        self, config: Settings, *, keys: tuple[str, ...] = SCORE_KEYS, overwrite: bool = False
    ) -> None:
        """Raise `RunError` if this folder cannot take a run with `config`; changes nothing."""
        self.check_usable()
        self._check_inputs_outside(config)
        if overwrite or not self.config.is_file():
            return
        before = self._values(load_yaml(self.config, type(config)), type(config))
        now = self._values(config.model_dump(mode="json"), type(config))
        for key in keys:
            if before[key] != now[key]:
                raise RunError(
                    f"{self.path} was made with {key} = {_show(before[key])}, "
                    f"now it is {_show(now[key])}: choose another --out, or add --overwrite"
                )

    def check_usable(self) -> None:
        """Raise `RunError` if this is a file, or a folder of somebody else's files."""
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file: --out takes a folder")
        if self.path.is_dir() and not self.config.is_file() and not self._only_leftovers():
            raise RunError(
                f"{self.path} holds files but no run of staff: choose another folder for --out"
            )

    def clear(self) -> None:
        """Remove what a run leaves, and nothing else. The manifest goes first."""
        patterns = (path for pattern in OWN_PATTERNS for path in sorted(self.path.glob(pattern)))
        for path in (*(self.path / name for name in OWN), *patterns):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def remove_other_coresets(self, names: list[str]) -> None:
        """Remove coreset files of an earlier selection in this folder that is not this one's."""
        for path in sorted(self.path.glob("coreset-*")):
            if path.stem.removeprefix("coreset-") not in names:
                path.unlink()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second process out of this folder while the block runs.

        The operating system drops the lock when a process dies, however it dies.
        Raises `RunError` when another process holds it.
        """
        import fcntl  # Linux and macOS

        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / ".lock"
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunError(f"another staff process is at work in {self.path}") from None
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def _check_inputs_outside(self, config: Settings) -> None:
        """No run may read what it is about to replace."""
        for name in INPUTS:
            given = getattr(config, name, None)
            if given and Path(given).resolve().is_relative_to(self.path.resolve()):
                raise RunError(
                    f"{name} {given} lies in the folder this run writes to, {self.path}: "
                    "choose another --out"
                )

    def _only_leftovers(self) -> bool:
        """Whether it is empty, or all in it is of a run that stopped before its first file."""
        names = (path.name for path in self.path.iterdir())
        return all(name == ".lock" or name.endswith(".partial") for name in names)

    @staticmethod
    def _values(given: Mapping[str, Any], config: type[Settings]) -> dict[str, Any]:
        """Every setting with its default, paths in one spelling, for comparison."""
        values = {name: field.default for name, field in config.model_fields.items()} | dict(given)
        for name in INPUTS:
            if isinstance(values.get(name), str):
                values[name] = os.path.normpath(values[name])
        return values


def _show(value: Any) -> str:
    return "(not set)" if value is None else repr(value) if isinstance(value, str) else str(value)
