"""Scores and adapters kept across run folders, identified by everything they were made from.

An entry is complete or absent: it is written under another name and renamed. Two processes that
make the same entry write the same bytes, so it does not matter whose stays. An entry that is
removed while it is read (pruned by another process) counts as missing.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from staff.data.places import refuse_link
from staff.data.writers import replacing, umask
from staff.errors import RunError
from staff.hashing import hash_file
from staff.notes import parse_note, read_note
from staff.runs.store import PART

TAG = "CACHEDIR.TAG"  # https://bford.info/cachedir/: backups leave such a folder out
SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55"
ABOUT = "# Scores and adapters of staff; `staff cache prune` makes room.\n"
SCORES, ADAPTERS = "scores", "adapters"
FACTS = "entry.json"  # of an adapter: its files by SHA-256
ATTEMPTS = 5  # at putting an adapter where several processes put the same
STALE = 24 * 3600  # seconds after which a half-written entry is a dead process's


@dataclass(frozen=True, slots=True)
class Entry:
    """One cached shard of scores or adapter. used: when last, in seconds since 1970."""

    kind: str
    key: str
    path: Path
    size: int
    used: float


class Cache:
    """The folder of ``--cache``. Making one touches nothing."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def open(self) -> "Cache":
        """Make the folder, if need be. Raises RunError if it holds something else."""
        self.check_usable()
        if not self._is_ours():
            with replacing(self.path / TAG) as part:
                part.write_text(f"{SIGNATURE}\n{ABOUT}", encoding="utf-8")
        return self

    def check_usable(self) -> None:
        """Raise RunError if the folder holds something else, or links to it; makes nothing."""
        self._refuse_links()
        # Looked into first: what another process makes meanwhile, it makes after the tag.
        if self._holds_others() and not self._is_ours():
            raise RunError(f"--cache {self.path} holds other files: give a folder of its own")

    def check(self) -> "Cache":
        """Raise RunError unless this is a cache of ours, without links to other folders."""
        self._refuse_links()
        if not self._is_ours():
            raise RunError(f"{self.path} is not a staff cache: give the folder of --cache")
        return self

    def fetch_shard(self, key: str, out: Path) -> bool:
        """Copy a shard to `out`; whether there was one."""
        try:
            shard = self._shard(key).read_bytes()
        except OSError:  # not there, another user's, or over NFS pruned while it was read
            return False
        with replacing(out) as part:
            part.write_bytes(shard)
        _touch(self._shard(key))
        return True

    def keep_shard(self, key: str, shard: Path) -> bool:
        """Put a finished shard into the cache; whether that was permitted."""
        if not self._takes(SCORES):
            return False
        with replacing(self._shard(key)) as part:
            shutil.copyfile(shard, part)
        return True

    def fetch_adapter(self, key: str, out: Path, names: tuple[str, ...]) -> bool:
        """Copy these files of an adapter to the new folder `out`; whether all were there."""
        folder = self.path / ADAPTERS / key
        shutil.rmtree(out, ignore_errors=True)
        try:
            files = read_note(folder / FACTS)
            out.mkdir(parents=True)
            for name in names:
                shutil.copyfile(folder / name, out / name)
                if hash_file(out / name) != files[name]:
                    raise ValueError(name)
        except (FileNotFoundError, PermissionError, ValueError, KeyError, TypeError):
            # It is not there, pruned, another user's, or damaged.
            shutil.rmtree(out, ignore_errors=True)
            return False
        _touch(folder / FACTS)
        return True

    def keep_adapter(self, key: str, adapter: Path, names: tuple[str, ...]) -> bool:
        """Put these files of an adapter folder into the cache, unless it is there.

        Whether that was permitted, as of `keep_shard`.
        """
        folder = self.path / ADAPTERS / key
        if _is_whole(folder, names):
            return True
        if not self._takes(ADAPTERS):
            return False
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{key[:12]}.", suffix=".part"))
        try:
            part.chmod(0o777 & ~umask())  # mkdtemp hides it from everyone else, shards are not
            for name in names:
                shutil.copyfile(adapter / name, part / name)
            files = {name: hash_file(part / name) for name in names}
            (part / FACTS).write_text(json.dumps(files) + "\n", encoding="utf-8")
            for _ in range(ATTEMPTS):
                with suppress(OSError):
                    part.rename(folder)  # only where nothing lies
                    break
                if _is_whole(folder, names):
                    break  # another process was as quick
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return True

    def entries(self) -> list[Entry]:
        """All entries, those used longest ago first."""
        found = [*self._entries(SCORES, "*.parquet"), *self._entries(ADAPTERS, f"*/{FACTS}")]
        return sorted(found, key=lambda entry: (entry.used, entry.key))

    def prune(self, *, days: float | None = None, gigabytes: float | None = None) -> list[Entry]:
        """Remove what was not used for so long, and then the oldest until so much is left."""
        entries, now = self.entries(), time.time()
        left, removed = sum(entry.size for entry in entries), []
        for entry in entries:
            old = days is not None and now - entry.used > days * 86400
            if old or (gigabytes is not None and left > gigabytes * 1e9):
                _remove(entry.path)
                if not entry.path.exists():  # another user's may stay
                    left -= entry.size
                    removed.append(entry)
        for part in self.path.glob(f"*/{PART}"):
            with suppress(OSError):  # finished meanwhile
                if now - part.lstat().st_mtime > STALE:
                    _remove(part)
        return removed

    def _entries(self, kind: str, pattern: str) -> Iterator[Entry]:
        for path in self.path.joinpath(kind).glob(pattern):
            entry = path.parent if path.name == FACTS else path
            if entry.name.startswith("."):  # half-written: glob's * takes hidden names, too
                continue
            try:
                files = entry.iterdir() if entry.is_dir() else [entry]
                size = sum(file.stat().st_size for file in files)
                yield Entry(kind, entry.stem, entry, size, path.stat().st_mtime)
            except (FileNotFoundError, PermissionError):  # pruned meanwhile, or not ours to see
                continue

    def _takes(self, kind: str) -> bool:
        """Whether entries of a kind may be written: a team's cache may be another user's."""
        place = self.path / kind
        return os.access(place if place.exists() else self.path, os.W_OK | os.X_OK)

    def _shard(self, key: str) -> Path:
        return self.path / SCORES / f"{key}.parquet"

    def _refuse_links(self) -> None:
        """A cache may be shared: what somebody else's link leads to is not ours to prune."""
        for kind in (SCORES, ADAPTERS):
            refuse_link(self.path / kind)

    def _is_ours(self) -> bool:
        try:
            return (self.path / TAG).read_text(encoding="utf-8").startswith(SIGNATURE)
        except (OSError, ValueError):
            return False

    def _holds_others(self) -> bool:
        """Whether anything but another process's half-written tag lies there."""
        try:
            return any(not path.match(f".{TAG}.*.part") for path in self.path.iterdir())
        except FileNotFoundError:
            return False
        except OSError:  # a file, or a folder that may not be read
            return True


def _touch(path: Path) -> None:
    """Note that an entry was used. Of another user's entry that cannot be noted; no matter."""
    with suppress(OSError):
        os.utime(path)


def _remove(path: Path) -> None:
    """Remove a file or a folder, as far as that may be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _is_whole(folder: Path, names: tuple[str, ...]) -> bool:
    """Whether a cached adapter has these files, as its facts name them."""
    try:
        files = read_note(folder / FACTS)
        return bool(files == {name: hash_file(folder / name) for name in names})
    except (OSError, ValueError):
        return False


def facts_of(entry: Entry) -> Mapping[str, Any]:
    """What a shard says it was made from; empty for an adapter, or one that cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if entry.kind != SCORES:
        return {}
    try:
        schema = pq.read_schema(entry.path)
        return dict(parse_note((schema.metadata or {})[b"staff.fingerprint"]))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return {}
