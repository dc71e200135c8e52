"""Intervals over two sources of chance at once: seeds and test items.

Every seed's model answers the same items, so values form a table [S, n]. Items are resampled (the
bootstrap: Efron & Tibshirani, 1993). There are too few seeds for that: where they matter more than
items, resampling three of them gives "95 %" intervals that contain the truth 72 times in a hundred.
Their mean uses Student's t distribution with S - 1 degrees of freedom instead, whose intervals are
right (tests/compare/test_statistics.py counts both) and show how little two seeds say.

With few items, bootstrap intervals are too narrow as well: with 5 items they contain the truth 83
times in a hundred, and one item has no interval. So they are widened by √(n/(n - 1)) and by
Student's quantile at n - 1 degrees of freedom over the normal one (Hesterberg, The American
Statistician, 2015).
"""

from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Any

import numpy as np

from staff.errors import DataError
from staff.rng import stream_seed
from staff.selectors.verification import widening
from staff.training.metrics import bleu_of
from staff.training.statistics import Interval
from staff.types import Floats, read_only

RESAMPLES = 2_000
LEVEL = 0.95
PER_RESAMPLE = 100  # draws of the seeds' mean beside each resample of the items
COUNTS = 10  # of BLEU: of one item
HELD = 5_000_000  # numbers in memory while resampling


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric, or the difference of two, with what its uncertainty is made of.

    by_seed: float64 [S], the metric of each seed's model.
    draws: float64 [R], its mean over seeds on resampled items; which items a resample holds
        depends on their number alone, so that two estimates on the same items are paired.
    items: n, how many there are.
    """

    by_seed: Floats
    draws: Floats
    items: int

    @property
    def value(self) -> float:
        """The metric: its mean over seeds."""
        return float(self.by_seed.mean())

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The paired difference: seed for seed, item for item."""
        if self.by_seed.shape != other.by_seed.shape:
            raise DataError(
                f"paired values need the same seeds: {len(self.by_seed)} and {len(other.by_seed)}"
            )
        if self.items != other.items:
            raise DataError(f"paired values need the same items: {self.items} and {other.items}")
        return Estimate(self.by_seed - other.by_seed, self.draws - other.draws, self.items)

    def interval(self) -> Interval:
        """The value and its 95 % interval over seeds and items; with one seed, over items.

        One item tells nothing of others: then its ends are infinite.

        >>> estimate([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]).interval().mean
        2.0
        """
        if self.items < 2:
            return Interval(self.value, -inf, inf)
        seeds, centre = len(self.by_seed), self.draws.mean()
        draws = centre + widening(self.items) * (self.draws - centre)
        if seeds > 1:
            error = self.by_seed.std(ddof=1) / np.sqrt(seeds)
            draws = draws + error * _student(seeds - 1, len(draws))  # [PER_RESAMPLE, R]
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(draws, [tail, 1 - tail])
        return Interval(self.value, float(low), float(high))


def estimate(values: Any, *, resamples: int = RESAMPLES) -> Estimate:
    """The mean over items, or of BLEU the corpus score, of each seed, and resampled.

    values: [S, n]; for BLEU its counts [S, n, 10] (`staff.training.metrics.bleu_counts`).

    >>> estimate([[1.0, 3.0], [5.0, 7.0]]).by_seed
    array([2., 6.])

    Raises DataError for another shape, no values, or values that are not finite.
    """
    values = np.asarray(values, np.float64)
    if values.ndim not in (2, 3) or 0 in values.shape or values.shape[2:] not in ((), (COUNTS,)):
        raise DataError(f"values must be a table of seeds and items; its shape is {values.shape}")
    if not np.isfinite(values).all():
        raise DataError(f"{(~np.isfinite(values)).sum()} of {values.size} values are not finite")
    n = values.shape[1]
    draw = np.random.default_rng(stream_seed(0, "compare items"))
    draws = np.empty(resamples)
    step = max(1, HELD // n)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        times = draw.multinomial(n, np.full(n, 1 / n), size=size)  # [size, n]
        draws[start : start + size] = _metric(values, times.astype(np.float64)).mean(axis=1)
    by_seed = _metric(values, np.ones((1, n)))[0]
    return Estimate(read_only(by_seed), read_only(draws), n)


def verdict(found: Interval, *, smaller_is_better: bool) -> str:
    """Say "win", "tie" or "loss": a tie unless the interval excludes 0.

    >>> verdict(Interval(-0.2, -0.3, -0.1), smaller_is_better=True)
    'win'
    """
    if found.low <= 0 <= found.high:
        return "tie"
    return "win" if (found.mean < 0) == smaller_is_better else "loss"


def _metric(values: Floats, times: Floats) -> Floats:
    """Each seed's metric with item i counted times[:, i] times: [S, n(, 10)], [R, n] -> [R, S]."""
    if values.ndim == 2:
        return times @ values.T / times.sum(axis=1, keepdims=True)
    counts = np.tensordot(times, values, (1, 1)).astype(np.int64)  # [R, S, 10], whole before, too
    return np.array([[bleu_of(one) for one in seeds] for seeds in counts])


@cache
def _student(freedom: int, resamples: int) -> Floats:
    """Draws of Student's t, float64 [PER_RESAMPLE, R], the same ones every time."""
    draw = np.random.default_rng(stream_seed(0, "compare seeds"))
    return read_only(draw.standard_t(freedom, size=(PER_RESAMPLE, resamples)))
