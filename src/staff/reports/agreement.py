"""How far the small model's order of rows is the target's."""

from typing import NamedTuple

import numpy as np

from staff.types import Floats, Ints


class Correlation(NamedTuple):
    """Spearman's rank correlation over n pairs, with its 95 % interval (None below 4 pairs)."""

    value: float
    interval: tuple[float, float] | None
    pairs: int


def rank_correlation(a: Floats, b: Floats) -> Correlation | None:
    """Spearman's correlation of two columns [n]; None where one of them is constant.

    The interval is Fisher's, with the variance of Bonett & Wright (Psychometrika, 2000).

    >>> rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 9.0]))
    Correlation(value=1.0, interval=None, pairs=3)
    """
    n = len(a)
    if n < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    value = round(float(np.corrcoef(ranks(a), ranks(b))[0, 1]), 12)
    if n < 4 or abs(value) == 1:
        return Correlation(value, None, n)
    spread = 1.959964 * np.sqrt((1 + value**2 / 2) / (n - 3))
    low, high = np.tanh(np.arctanh(value) + np.array([-spread, spread]))
    return Correlation(value, (float(low), float(high)), n)


def ranks(values: Floats) -> Floats:
    """Ranks from 1, equal values sharing the mean of theirs.

    >>> ranks(np.array([5.0, 7.0, 5.0])).tolist()
    [1.5, 3.0, 1.5]
    """
    _, level, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends: Ints = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[level]
