"""Allocate: how many rows each region gives to the coreset (step 6 of docs/method.md)."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from staff.selectors.arguments import check_known, check_total
from staff.selectors.verification import shrink
from staff.types import Budget, Floats, Regions, Verification, read_only


def allocate(
    regions: Regions, verification: Verification, *, total: int, allocation: str = "shares"
) -> Budget:
    """Give every region its budget m_i, the smallest region first.

    Smallest first (of equal sizes, lower scores first), so that what a small region cannot
    use passes on to larger ones. With m' the remaining budget and R the remaining regions:

    - an unverified region gets an equal share, min(|B_i|, ⌊m'/|R|⌋);
    - a verified one gets what `allocation` makes of its ratio V_i (`ALLOCATIONS`); "shrunk"
      uses ratios shrunk towards their mean (`shrink`). An unverified region in R counts with the
      mean ratio of the verified ones there.

    What saturated regions and rounding leave over is the result's `top_up`. A total larger
    than the pool takes all rows of every region.

    Raises ConfigError for a total outside [1, n] or an unknown allocation.
    """
    total = check_total(total, len(regions.of_row))
    check_known("allocation", allocation, ALLOCATIONS)
    sizes = regions.sizes
    if total > sizes.sum():
        return Budget(count=read_only(sizes), total=total)

    verified = ~np.isnan(verification.ratio)  # [K]
    share_of = ALLOCATIONS[allocation]
    order = np.argsort(sizes, kind="stable")
    shrunk = allocation == "shrunk"
    ratio = _within_range(shrink(verification) if shrunk else verification.ratio)
    ratio_left = _from_here_on(np.where(verified, ratio, 0.0)[order])  # Σ_{j∈R} V_j
    # Unverified regions are the smallest as a rule and come first. Where they are not (the scores
    # are an earlier run's, or the sizes a quota's), those still to come need their share too.
    verified_left = _from_here_on(verified[order])
    every_left = np.arange(regions.count, 0, -1)
    mixed = (verified_left > 0) & (verified_left < every_left)
    ratio_left[mixed] = (ratio_left * every_left)[mixed] / verified_left[mixed]
    # A region of which these rows, a quota's say, have none is no part of the mean, or what the
    # others get would not come to the total.
    there = verified & (sizes > 0)
    mean = float(ratio[there].mean()) if there.any() else 1.0

    count = np.zeros(regions.count, dtype=np.int64)
    left = total
    for step, i in enumerate(order):
        regions_left = regions.count - step
        if verified[i]:
            share = share_of(left, float(ratio[i]), float(ratio_left[step]), regions_left, mean)
        else:
            share = left // regions_left
        count[i] = min(int(sizes[i]), left, share)
        left -= int(count[i])
    return Budget(count=read_only(count), total=total)


def _from_here_on(values: NDArray[Any]) -> NDArray[Any]:
    """The sum of each value [K] and all after it."""
    return np.cumsum(values[::-1])[::-1]


def _shares(left: int, ratio: float, ratio_left: float, regions_left: int, mean: float) -> int:
    """⌊(m'·V_i) / Σ_{j∈R} V_j⌋, the released code; dividing first would lose one sometimes."""
    return math.floor((left * ratio) / ratio_left)


def _paper(left: int, ratio: float, ratio_left: float, regions_left: int, mean: float) -> int:
    """⌊m'·V_i / |R|⌋, the paper's formula, V scaled to mean 1 over the verified regions.

    Without the scale, ratios that are 3 on average would spend three times the budget.
    """
    return math.floor(left * (ratio / mean) / regions_left)


ALLOCATIONS: dict[str, Callable[[int, float, float, int, float], int]] = {
    "shares": _shares,
    "paper": _paper,
    "shrunk": _shares,
}


def _within_range(ratio: Floats) -> Floats:
    """Divide by the power of two above the largest ratio, so that no sum overflows.

    Both rules are free of scale, and a power of two leaves every digit as it is.
    """
    if np.all(np.isnan(ratio)):
        return ratio
    exponent = int(np.frexp(np.nanmax(ratio))[1])
    # A ratio too small to matter beside the largest stays above zero, or it would be 0 / 0.
    return np.maximum(np.ldexp(ratio, -exponent), np.finfo(np.float64).tiny)
