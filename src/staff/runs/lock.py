"""One process at a time: locks that the system drops when their holder dies, however it dies."""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from staff.data.places import refuse_link
from staff.errors import RunError
from staff.notes import parse_note


@contextmanager
def hold(lock: Path, *, place: Path) -> Iterator[None]:
    """Keep a second process out of `place` while the block runs.

    The file stays: were it removed, a third process could lock a new one beside a second's. It
    says who holds the lock, for the second process's message. (Where it is removed all the same,
    whoever had opened it is refused: the lock must be of the file that lies there.)

    Raises:
        RunError: another process holds it, or it is no file of ours.
    """
    import fcntl  # Linux and macOS

    if lock.is_dir() or (lock.is_file() and lock.stat().st_nlink > 1):
        raise RunError(f"{lock} is a folder, or a file of other places too: remove it")
    with lock.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken_away = not os.path.samestat(os.fstat(file.fileno()), lock.stat())
        except (BlockingIOError, FileNotFoundError):
            taken_away = True
        except OSError as error:
            raise RunError(
                f"{place} cannot be locked ({error.strerror}): its file system has no "
                "locks, choose another one for --out"
            ) from None
        if taken_away:
            raise RunError(f"another staff process is at work in {place}{_holder(file)}")
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
    out.parent.mkdir(parents=True, exist_ok=True)
    with hold(lock, place=out):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            for folder in made:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()


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
