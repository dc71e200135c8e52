"""Intervals over two sources of chance at once: seeds and test items.

Every seed's model answers the same items, so values form a table [S, n]. Its rows and columns are
resampled independently of each other (the pigeonhole bootstrap: Owen, Annals of Applied Statistics,
2007), which is a little cautious: it never counts S·n answers as S·n independent ones.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from staff.errors import DataError
from staff.rng import stream_seed
from staff.training.metrics import bleu_of
from staff.training.statistics import Interval
from staff.types import Floats

RESAMPLES = 2_000
LEVEL = 0.95


def value_of(values: Any) -> float:
    """The metric itself: mean over seeds of the mean over items (or of the corpus BLEU).

    values: [S, n], or [S, n, 10] for BLEU's counts (`staff.training.metrics`).

    >>> value_of(np.array([[1.0, 3.0], [5.0, 7.0]]))
    4.0
    """
    values = _checked(values)
    weights = np.ones((1, values.shape[1]))
    return float(_by_seed(values, weights).mean())


def replicates(values: Any, *, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """The metric on resampled seeds and items, float64 [R].

    Which seeds and items a replicate holds depends on (S, n, seed) alone. So two methods' replicates
    are paired, and their difference is the paired difference. With one seed, items alone are
    resampled.
    """
    values = _checked(values)
    seeds, items = values.shape[:2]
    draw = np.random.default_rng(stream_seed(seed, "compare"))
    of_items = draw.multinomial(items, np.full(items, 1 / items), size=resamples)  # [R, n]
    of_seeds = draw.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)  # [R, S]
    return (_by_seed(values, of_items) * of_seeds).sum(axis=1) / seeds


def interval_of(values: Any, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The metric and its 95 % interval over seeds and items.

    >>> interval_of(np.ones((2, 3)))
    Interval(mean=1.0, low=1.0, high=1.0)
    """
    return _interval(value_of(values), replicates(values, resamples=resamples, seed=seed))


def difference(a: Any, b: Any, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The metric of a minus that of b, over the same seeds and items, with its 95 % interval.

    >>> difference(np.array([[3.0, 5.0]]), np.array([[2.0, 4.0]]))
    Interval(mean=1.0, low=1.0, high=1.0)

    Raises DataError when the two are not of the same seeds and items.
    """
    a, b = _checked(a), _checked(b)
    if a.shape != b.shape:
        raise DataError(f"paired values must be of the same seeds and items: {a.shape}, {b.shape}")
    draws = [replicates(values, resamples=resamples, seed=seed) for values in (a, b)]
    return _interval(value_of(a) - value_of(b), draws[0] - draws[1])


def verdict(found: Interval, *, smaller_is_better: bool) -> str:
    """"win", "tie" or "loss": a tie unless the interval excludes 0.

    >>> verdict(Interval(-0.2, -0.3, -0.1), smaller_is_better=True)
    'win'
    """
    if found.low <= 0 <= found.high:
        return "tie"
    return "win" if (found.mean < 0) == smaller_is_better else "loss"


def _interval(value: float, draws: Floats) -> Interval:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def _by_seed(values: Any, weights: Any) -> Floats:
    """Each seed's metric under R weightings of the items: [S, n] and [R, n] -> [R, S]."""
    if values.ndim == 2:
        return weights @ values.T / weights.sum(axis=1, keepdims=True)
    counts = np.einsum("rn,snc->rsc", weights, values)
    return np.array([[bleu_of(one) for one in seeds] for seeds in counts])


def _checked(values: Sequence[Any] | Any) -> Any:
    values = np.asarray(values)
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise DataError(f"values must be a table of seeds and items; its shape is {values.shape}")
    if not np.isfinite(values).all():
        raise DataError(f"{(~np.isfinite(values)).sum()} of {values.size} values are not finite")
    return values
