"""Lists of ids and one column of a source: what include and exclude lists and quotas need."""

import hashlib
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np

from staff.data.files import Source
from staff.errors import DataError
from staff.types import Ints
from staff.visible import listed, shortened

MISSING = ""  # the group of rows without a value


@dataclass(frozen=True, slots=True)
class IdList:
    """The ids of a file in their order, each once, and the SHA-256 of what was read."""

    ids: list[str]
    sha256: str


def read_ids(path: str | Path) -> IdList:
    """The ids in a text file, one a line, without blanks around them; empty lines do not count.

    Raises `DataError` when the file cannot be read or holds an id twice, and for a pipe, whose ids
    would be gone once they were checked.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise DataError(f"{path} is a pipe or a device. Write the ids to a file.")
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not a text file: give ids, one per line") from None
    found: dict[str, int] = {}
    for number, line in enumerate(StringIO(text, newline=None), start=1):
        if name := line.strip():
            if name in found:
                twice = shortened(repr(name))
                raise DataError(f"{path}: {twice} is in line {found[name]} and line {number}")
            found[name] = number
    return IdList(list(found), hashlib.sha256(content).hexdigest())


def group_by_column(source: Source, column: str, rows: Ints) -> tuple[Ints, list[str]]:
    """Number each of `rows` (positions in the input, ascending) by its value of a column.

    Returns the group of each row int64 [n] and the groups' values as text, sorted. A row
    without the column, or with null, is in the group ``""``; reads the source once more.

    Raises `DataError` when no row has the column.
    """
    place = {row: n for n, row in enumerate(rows.tolist())}
    numbers: dict[str, int] = {}
    group = np.zeros(len(place), np.int64)
    known: set[str] = set()
    for raw in source.records():
        n = place.get(raw.row)
        if n is None or raw.record is None:
            continue
        known |= raw.record.keys()
        value = raw.record.get(column)
        text = MISSING if value is None else str(value)
        group[n] = numbers.setdefault(text, len(numbers))
    if column not in known:
        raise DataError(
            f"{source.name} has no column {column!r} for quotas; it has: {listed(sorted(known))}"
        )
    values = sorted(numbers)
    renumbered = np.empty(len(values), np.int64)
    renumbered[[numbers[value] for value in values]] = np.arange(len(values))
    return renumbered[group], values
