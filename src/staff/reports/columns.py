"""Plain text in a terminal: wrapped, and tables that fit a width or are not made."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

GAP = 2  # spaces before a column, so that a table is also indented


def wrap(text: str, width: int, **how: Any) -> list[str]:
    """Like `textwrap.wrap`, but flags and file names with hyphens stay whole.

    >>> wrap("try --batch-tokens", 16)
    ['try', '--batch-tokens']
    """
    return textwrap.wrap(text, width, break_on_hyphens=False, **how)


@dataclass(frozen=True, slots=True)
class Column:
    """A title and one cell a line; numbers stand right, words left."""

    title: str
    cells: Sequence[str]
    left: bool = False

    @property
    def width(self) -> int:
        """Columns of text the widest cell takes."""
        return max(len(cell) for cell in (self.title, *self.cells))


def layout(columns: Sequence[Column], width: int, *, force: bool = False) -> list[str]:
    """The lines of a table; none if it is wider than `width` and not forced.

    >>> layout([Column("a", ["1", "20"]), Column("b", ["x", "y"], left=True)], 80)
    ['   a  b', '   1  x', '  20  y']
    """
    if not force and sum(GAP + column.width for column in columns) > width:
        return []
    lines = []
    for row in zip(*((column.title, *column.cells) for column in columns), strict=True):
        cells = (
            cell.ljust(column.width) if column.left else cell.rjust(column.width)
            for column, cell in zip(columns, row, strict=True)
        )
        lines.append("".join(" " * GAP + cell for cell in cells).rstrip())
    return lines
