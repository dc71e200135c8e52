"""The order of rows: hardest first, ties by key; and its partial sorts.

Nothing here depends on the position of a row in the input, as long as keys are distinct.
Selection is by threshold (O(n)), never by a full sort.
"""

import numpy as np

from staff.types import Floats, Ints, Keys


def smallest(values: Keys, count: int) -> Ints:
    """Positions [count] of the smallest values, ascending; equal values by position."""
    if count <= 0:
        return np.empty(0, dtype=np.int64)
    if count >= len(values):
        return np.arange(len(values), dtype=np.int64)
    threshold = np.partition(values, count - 1)[count - 1]
    below = np.flatnonzero(values < threshold)
    level = np.flatnonzero(values == threshold)[: count - len(below)]
    return np.sort(np.concatenate([below, level]))


def hardest(scores: Floats, keys: Keys, count: int) -> Ints:
    """Positions [count] of the highest scores, ascending; equal scores by smaller key."""
    if count <= 0:
        return np.empty(0, dtype=np.int64)
    if count >= len(scores):
        return np.arange(len(scores), dtype=np.int64)
    threshold = np.partition(scores, len(scores) - count)[len(scores) - count]
    above = np.flatnonzero(scores > threshold)
    level = np.flatnonzero(scores == threshold)
    level = level[smallest(keys[level], count - len(above))]
    return np.sort(np.concatenate([above, level]))


def hardest_first(scores: Floats, keys: Keys, count: int) -> Ints:
    """Positions [count] of the highest scores, highest first; equal scores by smaller key."""
    rows = hardest(scores, keys, count)
    return rows[np.lexsort((keys[rows], -scores[rows]))]


def smallest_first(values: Keys, count: int) -> Ints:
    """Positions [count] of the smallest values, smallest first."""
    rows = smallest(values, count)
    return rows[np.argsort(values[rows], kind="stable")]


def place(scores: Floats, keys: Keys, position: int) -> int:
    """Place of one row from the hardest, 1 = hardest; the order of `hardest`."""
    level = scores == scores[position]
    earlier = level & (keys < keys[position])
    earlier |= level & (keys == keys[position]) & (np.arange(len(scores)) < position)
    return 1 + int(np.count_nonzero(scores > scores[position])) + int(np.count_nonzero(earlier))
