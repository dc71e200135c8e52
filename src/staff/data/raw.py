"""A row as the file has it."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from staff.errors import DataError


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One row as the file has it.

    row: position among the rows of the input, from 0, bad ones included.
    line: physical line on which it starts, from 1; None where a file has no lines.
    record: the parsed row; None where it could not be parsed.
    raw: a line of JSON as it stands in the file (without its line feed); of a row that
        could not be parsed, its text as far as it can be shown.
    problem: why `record` is None, else None.
    file: the name of its file, where the input has several.
    """

    row: int
    line: int | None
    record: dict[str, Any] | None
    raw: str | None = None
    problem: str | None = None
    file: str | None = None

    @property
    def place(self) -> str:
        """Where a person finds it: ``line 3 (row 2)``, or ``row 2`` in a file without lines.

        Among several files, after the name of the file; the row is that of all files together.
        """
        there = f"row {self.row}" if self.line is None else f"line {self.line} (row {self.row})"
        return f"{self.file}, {there}" if self.file else there


def refuse_repeated(names: list[str], path: Path) -> None:
    """Raise `DataError` when two columns share a name."""
    repeated = sorted(name for name, times in Counter(names).items() if times > 1)
    if repeated:
        raise DataError(f"{path}: column {repeated[0]!r} appears more than once. Rename one.")
