"""Share a budget among groups in proportion to their sizes."""

import heapq

import numpy as np
from numpy.typing import ArrayLike

from staff.errors import ConfigError
from staff.types import Ints


def apportion(sizes: ArrayLike, total: int) -> Ints:
    """Places int64 [G] of each group: as near its share of `total` as whole numbers can be.

    Webster's method (Sainte-Laguë): a group has ⌊size/d + 1/2⌋ places, one divisor d for all. It
    favours neither large nor small groups, no group gets more than its size, and a larger
    total takes a place from no group, so coresets of growing totals can nest. Of groups
    with equal claims the larger comes first, of equal ones the earlier.

    sizes: [G], at least 0. Raises ConfigError for a total outside [0, Σ sizes].

    >>> apportion([60, 30, 10], 5)
    array([3, 2, 0])
    """
    size = np.asarray(sizes, dtype=np.int64)
    n = int(size.sum())
    if not 0 <= total <= n:
        raise ConfigError(f"total must be between 0 and {n}, the rows of all groups; got {total}")
    if total == 0:
        return np.zeros_like(size)
    # The divisor n/total gives an apportionment of nearly `total` places; those that are missing or
    # too many, half of all where groups are alike, move by the same rule, one at a time.
    places = (2 * size * total + n) // (2 * n)
    given = int(places.sum())
    if given != total:
        _move(size, places, total - given)
    return places


def _move(size: Ints, places: Ints, count: int) -> None:
    """Give so many places more, or take them away if `count` is negative; changes `places`."""
    more = count > 0

    def entry(order: int, group: int) -> tuple[float, int, int] | None:
        """What the heap goes by; None for a group that can get or lose no place."""
        s, p = int(size[group]), int(places[group])
        if more:  # to the largest claim s/(2p + 1), of equal ones the larger group's
            return (-s / (2 * p + 1), order, group) if p < s else None
        # From the smallest claim by which a place was won, of equal ones the smaller group's.
        return (s / (2 * p - 1), -order, group) if p else None

    by_size = np.argsort(-size, kind="stable").tolist()
    heap = [e for e in (entry(*place) for place in enumerate(by_size)) if e is not None]
    heapq.heapify(heap)
    for _ in range(abs(count)):
        _, order, group = heap[0]
        places[group] += 1 if more else -1
        again = entry(abs(order), group)
        if again is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, again)
