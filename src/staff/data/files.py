"""Open, hash and write the files that training rows live in."""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from staff.data.folders import common_kind, files_of, is_pattern, matching, said_of_files
from staff.data.kinds import SNIFF_BYTES, is_packed, kind_of, named_kind
from staff.data.raw import RawRecord
from staff.data.readers import READERS, Reader
from staff.data.tables import COMMIT, hub_commit, parquet_rows, read_hub
from staff.data.writers import json_line, replacing, write_records
from staff.errors import DataError, nearest

__all__ = ["RawRecord", "Source", "open_source", "replacing", "write_records"]

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(:[\w.-]+)?(@[\w.-]+){0,2}")
HASH_CHUNK = 1 << 20
HEAD_ROWS = 100  # by which format and columns are found


@dataclass(frozen=True, slots=True)
class Source:
    """Rows of training data that can be read again and again.

    name: the path or Hub id as given; kind: jsonl, json, csv, tsv, parquet, arrow or hub;
    files: what is read, in order (empty for the Hub); records: gives every row in order, from the
    start, a few in memory at a time; commit: gives that of a Hub data set;
    note: which splits and folders are read or not, where one may wonder.
    """

    name: str
    kind: str
    files: tuple[Path, ...]
    records: Callable[[], Iterator[RawRecord]]
    commit: Callable[[], str | None] = lambda: None
    note: str | None = None

    def head(self, count: int = HEAD_ROWS) -> list[RawRecord]:
        """The first rows that can be parsed, at most `count`."""
        rows = self.records()
        try:
            return list(islice((row for row in rows if row.record is not None), count))
        finally:
            rows.close()  # type: ignore[attr-defined]  # readers are generators: frees the file now

    def estimated_rows(self) -> int | None:
        """About how many rows there are, without reading them; None where that cannot be told.

        Exact for Parquet; from the length of the first lines for uncompressed JSON Lines, CSV and
        TSV.
        """
        if self.kind == "parquet":
            return sum(map(parquet_rows, self.files))
        if self.kind not in ("jsonl", "csv", "tsv") or any(map(is_packed, self.files)):
            return None
        with self.files[0].open("rb") as file:
            start = file.read(SNIFF_BYTES)
        lines = start.count(b"\n")
        size = sum(file.stat().st_size for file in self.files)
        return round(lines * size / len(start)) or None if start else None

    def content_hash(self) -> str:
        """SHA-256 (hex) of the bytes of the files, as they are read; of the rows, for the Hub."""
        digest = hashlib.sha256()
        if not self.files:
            for row in self.records():
                digest.update(json_line(row).encode("utf-8", "surrogatepass") + b"\n")
        for path in self.files:
            if len(self.files) > 1:  # so that no byte can move from one file to the next unseen
                digest.update(f"{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while chunk := file.read(HASH_CHUNK):
                    digest.update(chunk)
        return digest.hexdigest()

    def check_unchanged(self, known: str) -> None:
        """Raise `DataError` if the content is not that of an earlier `content_hash`."""
        if self.content_hash() != known:
            raise DataError(f"{self.name} changed while it was read: run the same command again")


def open_source(
    path_or_hub_id: str | Path, *, split: str = "train", revision: str | None = None
) -> Source:
    """Find out what kind of data this is, without reading it through.

    A path that exists is taken as a file, a `save_to_disk` folder or a folder of data files; one
    with ``*``, ``?`` or ``[…]`` as a pattern of files; anything else that looks like
    ``owner/name`` (or ``owner/name:config``) as a data set on the Hugging Face Hub. `split`
    chooses among the splits of a folder or a Hub data set; so does ``@test`` at the end of a Hub
    id, or the folder of a split. `revision` is the commit of a Hub data set; so is ``@`` with 40
    hexadecimal digits at the end of its id, which goes before.

    Raises `DataError`: missing or empty file, a pipe, unknown kind of file or folder, no such
    split.
    """
    name = str(path_or_hub_id)
    path = Path(name).expanduser()
    if path.is_dir():
        return _of_files(name, files_of(path, split), folder=path)
    if not path.exists() and is_pattern(name):
        return _of_files(name, matching(str(path)))
    if not path.exists():
        if isinstance(path_or_hub_id, str) and HUB_ID.fullmatch(name) and not named_kind(path):
            return _hub_source(name, split, revision)
        raise DataError(f"no such file: {name}{_nearest(path)}")
    if not path.is_file():
        raise DataError(
            f"{name} is a pipe or a device, and rows are read more than once. Write them to a file."
        )
    kind = kind_of(path)
    if path.stat().st_size == 0:
        raise DataError(f"{name} is empty. Give a file with at least one row.")
    return Source(name, kind, (path,), lambda: READERS[kind](path))


def _of_files(name: str, files: tuple[Path, ...], folder: Path | None = None) -> Source:
    kind = common_kind(files)
    return Source(
        name,
        kind,
        files,
        lambda: _one_after_the_other(files, READERS[kind]),
        note=said_of_files(folder, files),
    )


def _one_after_the_other(files: tuple[Path, ...], read: Reader) -> Iterator[RawRecord]:
    count = 0
    for file in files:
        for raw in read(file):
            yield RawRecord(count, raw.line, raw.record, raw.raw, raw.problem, file.name)
            count += 1


def _hub_source(name: str, split: str, revision: str | None) -> Source:
    whole, *marked = name.split("@")
    dataset, _, named = whole.partition(":")
    config = named or None
    if Path(dataset).is_dir():  # `datasets` would read it, by rules of its own
        raise DataError(
            f"{name}: {dataset} is a local folder, and : and @ are for the Hub. Give the folder of "
            "the part that you mean, or a pattern in quotes that matches its files."
        )
    commits = [mark for mark in marked if COMMIT.fullmatch(mark)]
    splits = [mark for mark in marked if not COMMIT.fullmatch(mark)]
    if len(commits) > 1 or len(splits) > 1:
        raise DataError(f"{name} names two splits or two commits: give at most one of each")
    split = splits[0] if splits else split
    commit = commits[0] if commits else revision
    return Source(
        name,
        "hub",
        (),
        lambda: read_hub(dataset, config, split, commit),
        lambda: hub_commit(dataset, config, commit),
    )


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f". The folder {path.parent} is not there either."
    if near := nearest(path):
        return f"; did you mean {near}?"
    where = "" if path.is_absolute() else f" (looked for it from {Path.cwd()})"
    return f"{where}. Check the path."
