"""How the rows of a step are parted: among processes, and into what is computed at once.

The trainer does it so, and a plan counts it so (`staff.planning.shares`); no torch is needed.
"""

from typing import TypeVar

from staff.types import Ints

Group = TypeVar("Group", list[int], Ints)

MULTIPLE = 16  # of tokens that rows are padded to in half precision (`trainer.padding_of`)


def dealt(rows: Group, *, rank: int, size: int) -> Group:
    """Of a step's rows those of one of `size` processes, which may be none.

    >>> dealt([4, 5, 6], rank=1, size=2)
    [5]
    """
    return rows[rank::size]


def most_dealt(rows: int, *, size: int) -> int:
    """How many of so many rows the process with the most takes: the first."""
    return -(-rows // size)


def micro_batches(rows: Group, *, size: int | None, most: int) -> list[Group]:
    """Rows in parts of at most `size`; in one part without a size.

    most: rows of the process that has the most. All make as many parts, as they must where they
    hold a model between them: what lacks rows is empty.

    >>> micro_batches([7, 8, 9], size=2, most=3)
    [[7, 8], [9]]
    >>> micro_batches([7], size=2, most=3)
    [[7], []]
    """
    step = size or most
    return [rows[start : start + step] for start in range(0, most, step)]
