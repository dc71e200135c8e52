"""How far a coreset depends on the seed."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from staff.errors import ConfigError
from staff.types import Ints


class Stability(NamedTuple):
    """jaccard: mean over all pairs of coresets. chance: of two uniform draws of the same sizes."""

    jaccard: float
    chance: float


def jaccard(one: Ints, other: Ints) -> float:
    """Rows in both over rows in either, of two sets of distinct rows.

    >>> jaccard(np.array([1, 2, 3]), np.array([2, 3, 4]))
    0.5
    """
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)


def stability(coresets: Sequence[Ints], n: int, *, fixed: int = 0) -> Stability:
    """Mean Jaccard index of coresets of n rows chosen with different seeds, and that of chance.

    Chance is at the expected overlap m·m'/n of two random subsets. A method without any
    randomness has 1. fixed: rows beside the n that are in every coreset, by chance, too.

    Raises ConfigError for fewer than two coresets.

    >>> stability([np.array([0, 1]), np.array([1, 2])], n=4)
    Stability(jaccard=0.3333333333333333, chance=0.3333333333333333)
    """
    if len(coresets) < 2:
        raise ConfigError("stability needs the coresets of at least two seeds")
    pairs = list(combinations(coresets, 2))
    found = np.mean([jaccard(one, other) for one, other in pairs])
    overlaps = [
        (fixed + (len(a) - fixed) * (len(b) - fixed) / max(n, 1), len(a) + len(b)) for a, b in pairs
    ]
    return Stability(float(found), float(np.mean([o / (both - o) for o, both in overlaps])))
