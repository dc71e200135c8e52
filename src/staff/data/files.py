"""Open, hash and write the files that training rows live in."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from staff.data.places import leads_outside
from staff.data.raw import RawRecord
from staff.data.readers import READERS
from staff.data.streams import BOM, open_bytes
from staff.data.tables import COMMIT, hub_commit, parquet_rows, read_arrow, read_hub
from staff.data.writers import json_line, replacing, write_records
from staff.errors import DataError

__all__ = ["RawRecord", "Source", "open_source", "replacing", "write_records"]

KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
}
COMPRESSED = (".gz", ".zst")
TEXT_KINDS = ("jsonl", "json", "csv", "tsv")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(:[\w.-]+)?(@[\w.-]+){0,2}")
HASH_CHUNK = 1 << 20
SNIFF_BYTES = 1 << 20
HEAD_ROWS = 100  # by which format and columns are found


@dataclass(frozen=True, slots=True)
class Source:
    """Rows of training data that can be read again and again.

    name: the path or Hub id as given; kind: jsonl, json, csv, tsv, parquet, arrow, saved or hub;
    files: what is read, in order (empty for the Hub); commit: gives that of a Hub data set.
    """

    name: str
    kind: str
    files: tuple[Path, ...]
    read: Callable[[], Iterator[RawRecord]]
    commit: Callable[[], str | None] = lambda: None

    def records(self) -> Iterator[RawRecord]:
        """Every row in order, from the start, a few in memory at a time."""
        return self.read()

    def head(self, count: int = HEAD_ROWS) -> list[RawRecord]:
        """The first rows that can be parsed, at most `count`."""
        rows = self.read()
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
            return parquet_rows(self.files[0])
        if self.kind not in ("jsonl", "csv", "tsv") or _packed(self.files[0]):
            return None
        with self.files[0].open("rb") as file:
            start = file.read(SNIFF_BYTES)
        lines = start.count(b"\n")
        size = self.files[0].stat().st_size
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

    A path that exists is taken as a file or a `save_to_disk` folder; anything else that looks
    like ``owner/name`` (or ``owner/name:config``) as a data set on the Hugging Face Hub.
    `split` chooses among the splits of a folder or a Hub data set; so does ``@test`` at the end
    of a Hub id, or the folder of a split. `revision` is the commit of a Hub data set; so is
    ``@`` with 40 hexadecimal digits at the end of its id, which goes before.

    Raises `DataError`: missing or empty file, unknown kind of file or folder, no such split.
    """
    name = str(path_or_hub_id)
    path = Path(name).expanduser()
    if path.is_dir():
        files = _saved_files(path, split)
        return Source(name, "saved", files, lambda: read_arrow(*files))
    if not path.exists():
        if isinstance(path_or_hub_id, str) and HUB_ID.fullmatch(name) and not _kind(path):
            return _hub_source(name, split, revision)
        raise DataError(f"no such file: {name}{_nearest(path)}")
    kind = _kind(path)
    if kind is None:
        raise DataError(
            f"{name}: unknown kind of file. Known endings: {', '.join(KINDS)}; "
            f"{', '.join(TEXT_KINDS)} also with {' or '.join(COMPRESSED)}."
        )
    if path.stat().st_size == 0:
        raise DataError(f"{name} is empty. Give a file with at least one row.")
    if kind == "json":
        kind = _json_kind(path)
    return Source(name, kind, (path,), lambda: READERS[kind](path))


def _hub_source(name: str, split: str, revision: str | None) -> Source:
    whole, *marked = name.split("@")
    dataset, _, named = whole.partition(":")
    config = named or None
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


def _kind(path: Path) -> str | None:
    packed = _packed(path)
    kind = KINDS.get((path.with_suffix("") if packed else path).suffix.lower())
    return None if packed and kind not in TEXT_KINDS else kind


def _packed(path: Path) -> bool:
    return path.suffix.lower() in COMPRESSED


def _nearest(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f". The folder {folder} is not there either."
    near = get_close_matches(path.name, sorted(entry.name for entry in folder.iterdir()), n=1)
    if near:
        return f"; did you mean {folder / near[0]}?"
    where = "" if path.is_absolute() else f" (looked for it from {Path.cwd()})"
    return f"{where}. Check the path."


def _json_kind(path: Path) -> str:
    """`.json` files hold an array, or often one object a line."""
    with open_bytes(path) as stream:
        for _ in range(1000):
            line = stream.readline(SNIFF_BYTES)
            text = line.removeprefix(BOM).strip()
            if text or not line:
                break
    if text.startswith(b"[") or not text.startswith(b"{"):
        return "json"
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        if len(line) < SNIFF_BYTES:
            raise DataError(
                f"{path} starts with a JSON object that does not end on its line. "
                "Make it a JSON array of objects, or one object a line."
            ) from error
    return "jsonl"


def _saved_files(folder: Path, split: str) -> tuple[Path, ...]:
    """The Arrow files of a `datasets` folder, in the order of their rows."""
    root = folder
    if (folder / "dataset_dict.json").is_file():
        splits = [str(name) for name in _listed(folder / "dataset_dict.json", "splits")]
        if split not in splits:
            raise DataError(
                f"{folder} has no split {split!r}, only {', '.join(splits)}. "
                f"Give the folder of one of them, e.g. {folder / splits[0] if splits else folder}"
            )
        folder = folder / split
    if not (folder / "state.json").is_file():
        raise DataError(
            f"{folder} is not a folder made by save_to_disk (it has no state.json). Give a data "
            "file in it, or join several first: JSON Lines with cat, others with datasets' "
            f"load_dataset({str(folder)!r}, split='train').save_to_disk(OTHER)."
        )
    entries = _listed(folder / "state.json", "_data_files")
    names = [str(entry["filename"]) for entry in entries if isinstance(entry, dict) and entry]
    files = tuple(folder / name for name in names)
    for file in files:
        if leads_outside(file, root):
            raise DataError(
                f"{root} names {file}, which lies outside the folder or is a link that leads out. "
                "Put the file itself in the folder."
            )
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        lost = missing[0].name if missing else "every data file"
        raise DataError(f"{folder}: {lost} is missing. Save the data set again.")
    return files


def _listed(path: Path, key: str) -> list[Any]:
    """The list under a key of a JSON file; empty if the key is not there."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get(key, [])
        if not isinstance(found, list):
            raise ValueError(f"{key} is not a list")
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is broken ({error}). Save the data set again.") from error
    return found
