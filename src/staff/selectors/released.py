"""What the released code does differently, kept only for comparison.

It min–max normalises both models' scores over all of D first, which needs the target's score of
every row: the cost that verification avoids.
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import ArrayLike

from staff.types import Floats, Ints


def minmax(scores: ArrayLike) -> Floats:
    """Scores [n] moved and scaled to [0, 1]; constant scores become 0."""
    array = np.asarray(scores, dtype=np.float64)
    lowest, highest = array.min(), array.max()
    if lowest == highest:
        return np.zeros_like(array)
    return (array - lowest) / (highest - lowest)


def running_sum(values: Iterable[float]) -> float:
    """Add one by one in float64, rounding each time, as a loop does.

    The last digit of a ratio can decide a budget: for the last region ⌊(m'·V)/V⌋ is m'
    or m' − 1. (`sum` will not do: from Python 3.12 on it compensates its rounding.)
    """
    return float(np.cumsum(np.asarray(values, dtype=np.float64))[-1])


def over_all_rows(verify: Callable[[Ints], ArrayLike], n: int) -> Callable[[Ints], Floats]:
    """A `verify` that scores all n rows on the target, normalises, then looks up."""
    return lambda rows: minmax(verify(np.arange(n)))[rows]
