"""Errors a user can act on.

Library code raises these; only `staff.cli` turns them into text and exit codes.
A message says what is wrong, where, and what to do, in as few plain lines as possible.
"""

import errno
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from staff.visible import listed


class StaffError(Exception):
    """Something the user can fix. The message is the whole explanation."""

    exit_code = 1


class ConfigError(StaffError):
    """A setting, flag or combination of them is invalid."""

    exit_code = 2


class DataError(StaffError):
    """A data file cannot be used as it is."""

    exit_code = 3


class ModelError(StaffError):
    """A model, tokenizer or adapter cannot be used as it is."""

    exit_code = 4


class RunError(StaffError):
    """A run folder cannot be used for what was asked."""

    exit_code = 5


class DiskFullError(StaffError):
    """There is no space for a file, or a quota or limit on its size is reached."""

    def __init__(self, path: object = None) -> None:
        where = "" if path is None else f" while writing {path}"
        super().__init__(f"the disk is full{where}: free some space and run the same command again")


class MemoryFullError(StaffError):
    """A fine-tuning takes more memory than there is; with a setting that takes less it goes on."""


class ProcessGoneError(StaffError):
    """One of the processes of a run has ended; finished work is kept for the next start."""


class ToldElsewhereError(StaffError):
    """Another process of this run has failed, and tells the user what of."""


def error_of(exit_code: int) -> type[StaffError]:
    """The kind of error that ends with this exit code, to raise another process's here."""
    kinds = (ConfigError, DataError, ModelError, RunError)
    return next((kind for kind in kinds if kind.exit_code == exit_code), StaffError)


def is_disk_full(error: BaseException) -> bool:
    """Whether a writer found no space; of libraries in other languages only the text shows it."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    words = ("No space left on device", "Disk quota exceeded", "File too large")
    return getattr(error, "errno", None) in full or any(text in str(error) for text in words)


def tells_of_memory(text: str) -> bool:
    """Whether an error's text says that memory ran out: libraries have no common type for it."""
    named = ("DefaultCPUAllocator", "STATUS_ALLOC_FAILED")  # PyTorch; cuBLAS and cuDNN
    return "out of memory" in text.lower() or any(name in text for name in named)


class BadRow(Exception):  # noqa: N818 - a verdict on one row, not a failure of the program
    """One row cannot be used; the text is the reason, e.g. ``response is empty``."""


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> str:
    """Explain an unknown name by its nearest valid one, or by all of them.

    >>> unknown_name("format", "alpacca", ["alpaca", "text"])
    "unknown format 'alpacca'; did you mean 'alpaca'? Valid: alpaca, text"
    """
    names = sorted(valid)
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {kind} {name!r}; {hint}Valid: {listed(names)}"


def nearest(path: Path) -> Path | None:
    """What lies beside a path that is not there, under a name much like its own."""
    if not path.parent.is_dir():
        return None
    names = sorted(entry.name for entry in path.parent.iterdir())
    near = get_close_matches(path.name, names, n=1)
    return path.parent / near[0] if near else None
