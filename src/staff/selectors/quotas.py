"""Share a budget among groups in proportion to their sizes."""

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
    # The divisor n/total gives an apportionment of nearly `total` places; the few that are
    # missing or too many move by the same rule, one at a time.
    places = (2 * size * total + n) // (2 * n)
    by_size = np.argsort(-size, kind="stable")
    while (given := int(places.sum())) != total:
        if given < total:  # to the largest claim size/(2·places + 1)
            claim = np.where(places < size, size / (2 * places + 1), -1.0)[by_size]
            places[by_size[claim.argmax()]] += 1
        else:  # from the smallest claim by which a place was won
            claim = np.where(places > 0, size / np.maximum(2 * places - 1, 1), np.inf)[by_size]
            places[by_size[len(claim) - 1 - claim[::-1].argmin()]] -= 1
    return places
