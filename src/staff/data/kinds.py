"""What kind of file holds training rows, by its name and its first bytes."""

import json
from pathlib import Path

from staff.data.streams import BOM, UNPACKED, open_bytes
from staff.errors import DataError

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
TEXT_KINDS = ("jsonl", "json", "csv", "tsv")
SNIFF_BYTES = 1 << 20


def named_kind(path: Path) -> str | None:
    """The kind that a file's name says; None if it is not one of those that are read."""
    packed = is_packed(path)
    kind = KINDS.get((path.with_suffix("") if packed else path).suffix.lower())
    return None if packed and kind not in TEXT_KINDS else kind


def is_packed(path: Path) -> bool:
    """Whether the name says that the file is compressed."""
    return path.suffix.lower() in UNPACKED


def kind_of(path: Path) -> str:
    """The kind of a file that is there.

    Raises `DataError`: no known kind, or an object of JSON over many lines.
    """
    kind = named_kind(path)
    if kind is None:
        raise DataError(
            f"{path}: unknown kind of file. Known endings: {', '.join(KINDS)}; "
            f"{', '.join(TEXT_KINDS)} also with {' or '.join(UNPACKED)}."
        )
    return _json_kind(path) if kind == "json" else kind


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
