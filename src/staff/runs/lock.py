"""One process at a time: locks that the system releases when their holder dies, in any way."""

import json
import os
import platform
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from staff.data.places import refuse_link
from staff.errors import RunError
from staff.notes import parse_note

ATTEMPTS = 20  # at making a lock in a folder that others remove


@contextmanager
def hold(lock: Path, *, place: Path) -> Iterator[None]:
    """Keep a second process out of `place` while the block runs.

    The file stays: were it removed, a third process could lock a new one beside a second's. It
    says who holds the lock, for the second process's message. (Where it is removed all the same,
    whoever had opened it is refused: the lock must be of the file that lies there.)

    The lock's folder is made if need be.

    Raises:
        RunError: another process holds it, or it is no file of ours.
    """
    import fcntl  # Linux and macOS

    with suppress(OSError):  # one look: it is not there, or another process removes it meanwhile
        found = lock.stat()
        if stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink > 1):
            raise RunError(f"{lock} is a folder, or a file with several hard links: remove it")
    with _opened(lock) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken_away = not os.path.samestat(os.fstat(file.fileno()), lock.stat())
        except (BlockingIOError, FileNotFoundError):
            taken_away = True
        except OSError as error:
            raise RunError(
                f"{place} cannot be locked ({error.strerror}): its file system does not support "
                "locks; choose an --out on another one"
            ) from None
        if taken_away:
            raise RunError(
                f"another staff process is running in {place}{_holder(file)}; wait until it has "
                "ended, or choose another --out"
            )
        file.truncate(0)
        me = {"host": platform.node(), "pid": os.getpid(), "started": utc_now()}
        file.write(json.dumps(me) + "\n")
        file.flush()
        yield


@contextmanager
def hold_beside(out: Path) -> Iterator[None]:
    """Keep a second process from writing to a folder, by a hidden file beside it, which goes.

    Raises RunError as `hold` does, and where the file would be a link.
    """
    lock = out.with_name(f".{out.name}.lock")
    refuse_link(lock)
    made = [folder for folder in out.parents if not folder.exists()]
    with hold(lock, place=out):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            remove_empty(made)


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those that are empty. Other processes may put something there, or remove them, too."""
    for folder in folders:
        with suppress(OSError):  # it is not empty, or not there
            folder.rmdir()


def _opened(lock: Path) -> TextIO:
    """The lock file, made if need be, its folder too: a run that was refused may take that away."""
    for _ in range(ATTEMPTS - 1):
        with suppress(FileNotFoundError, FileExistsError):  # the latter: it went while looked at
            lock.parent.mkdir(parents=True, exist_ok=True)
            return lock.open("a+", encoding="utf-8")
    lock.parent.mkdir(parents=True, exist_ok=True)
    return lock.open("a+", encoding="utf-8")


def _holder(file: TextIO) -> str:
    """Who wrote the lock file; nothing if it does not say."""
    try:
        file.seek(0)
        holder = parse_note(file.read())
        return f": process {holder['pid']} on {holder['host']}, since {holder['started']}"
    except (ValueError, KeyError, TypeError):
        return ""


def utc_now() -> str:
    """The time, to the second, as ISO 8601 writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
