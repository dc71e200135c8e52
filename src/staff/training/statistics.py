"""Intervals by bootstrap over test items (Efron & Tibshirani, 1993)."""

from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from staff.errors import ConfigError, DataError
from staff.rng import stream_seed
from staff.types import Floats

DRAWN_AT_ONCE = 2_000_000  # item positions held in memory while resampling


class Interval(NamedTuple):
    """A mean and the percentile interval around it."""

    mean: float
    low: float
    high: float


def mean_interval(
    values: ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean of n items with its percentile bootstrap interval.

    With fewer than some 20 items the interval is too narrow; with one it is a point.

    >>> mean_interval([1.0, 1.0, 1.0])
    Interval(mean=1.0, low=1.0, high=1.0)

    Raises:
        DataError: no items, or values that are not finite.
        ConfigError: `level` is outside (0, 1).
    """
    if not 0 < level < 1:
        raise ConfigError(f"the level of an interval must be between 0 and 1; it is {level}")
    items = _items(values)
    tail = (1 - level) / 2
    low, high = np.quantile(_resampled_means(items, resamples, seed), [tail, 1 - tail])
    return Interval(float(items.mean()), float(low), float(high))


def share_interval(values: ArrayLike) -> Interval:
    """Share of n items that are 1, not 0, with Wilson's 95 % score interval (JASA, 1927).

    The bootstrap knows nothing of what none of n items showed: of no 1 at all it makes 0 to 0.

    >>> [round(end, 3) for end in share_interval([0.0] * 100)]
    [0.0, 0.0, 0.037]

    Raises DataError as `mean_interval` does.
    """
    items = _items(values)
    return wilson(float(items.mean()), len(items))


def wilson(share: float, n: int) -> Interval:
    """Wilson's 95 % score interval of a share of n items."""
    z = NormalDist().inv_cdf(0.975)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Interval(
        share, min(share, max(0.0, centre - reach)), max(share, min(1.0, centre + reach))
    )


def paired_interval(
    a: ArrayLike, b: ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean of a - b over the same n test items, with its bootstrap interval.

    Items are resampled in pairs, so what makes an item hard for both models cancels
    out; an interval that excludes 0 is a difference these items can tell.

    >>> paired_interval([3.0, 5.0], [2.0, 4.0])
    Interval(mean=1.0, low=1.0, high=1.0)

    Raises:
        DataError: the two differ in length, or as in `mean_interval`.
    """
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if left.shape != right.shape:
        raise DataError(f"paired values must be of the same items: {left.shape}, {right.shape}")
    return mean_interval(left - right, level=level, resamples=resamples, seed=seed)


def _items(values: ArrayLike) -> Floats:
    """Values of n test items as float64 [n]; DataError for none, or one that is not finite."""
    items = np.asarray(values, np.float64)
    if items.ndim != 1 or len(items) == 0:
        raise DataError(f"an interval needs a list of test items; its shape is {items.shape}")
    if not np.isfinite(items).all():
        raise DataError(f"{(~np.isfinite(items)).sum()} of {len(items)} values are not finite")
    return items


def _resampled_means(items: Floats, resamples: int, seed: int) -> Floats:
    """Means of `resamples` draws of n items with replacement: float64 [resamples]."""
    draw = np.random.default_rng(stream_seed(seed, "bootstrap"))
    n = len(items)
    rows = max(1, DRAWN_AT_ONCE // n)
    means = np.empty(resamples)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        means[start : start + count] = items[draw.integers(0, n, (count, n))].mean(axis=1)
    return means
