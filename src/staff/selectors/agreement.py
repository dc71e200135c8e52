"""How well the small model's order of rows agrees with the target's, on rows that both scored."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from staff.rng import stream_seed
from staff.selectors.verification import NORMAL_95
from staff.types import Floats, Ints

RESAMPLES = 1000
AT_ONCE = 2**19  # numbers held at a time while resampling


class Correlation(NamedTuple):
    """Spearman's rank correlation over so many pairs, with its 95 % interval where there is one."""

    value: float
    interval: tuple[float, float] | None
    pairs: int


def rank_correlation(a: Floats, b: Floats) -> Correlation | None:
    """Spearman's correlation of two columns [n]; None where one of them is constant.

    The interval (None below 4 pairs, and of a correlation of 1 or -1) is Fisher's, with the
    variance of Bonett & Wright (Psychometrika, 2000). It is for pairs drawn alike from all there
    are.

    >>> rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 9.0]))
    Correlation(value=1.0, interval=None, pairs=3)
    """
    n = len(a)
    if n < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    value = round(float(np.corrcoef(ranks(a), ranks(b))[0, 1]), 12)
    if n < 4 or abs(value) == 1:
        return Correlation(value, None, n)
    spread = NORMAL_95 * np.sqrt((1 + value**2 / 2) / (n - 3))
    low, high = np.tanh(np.arctanh(value) + np.array([-spread, spread]))
    return Correlation(value, (float(low), float(high)), n)


def stratified_correlation(
    a: Floats, b: Floats, stratum: Ints, sizes: Ints, *, seed: int = 0
) -> Correlation | None:
    """Spearman's correlation over all rows of some strata, estimated from a few rows of each.

    a, b: [v], both scores of the rows drawn. stratum: int64 [v], which each is of. sizes: [K],
    rows each stratum has. A row stands for as many rows as its stratum has for each that was
    drawn of it, in the ranks and in their correlation. None where a or b is constant.

    The interval is the bootstrap's, percentiles of `RESAMPLES`: of the n rows of a stratum n - 1
    are drawn with replacement and count n/(n - 1) times (Rao and Wu, JASA, 1988), since n of n
    would make strata of ten rows look a tenth too sure. A stratum of one row, which alone would
    not vary, is taken together with the next (Cochran, Sampling Techniques, chapter 5A). The
    order of the rows does not matter. There is no interval below 5 rows: resamples of four in the
    same order on both models by chance, one time in 24, are in the same order, too.
    """
    v = len(a)
    if v < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    order = np.lexsort((b, a, stratum))
    a, b, stratum = a[order], b[order], stratum[order]
    drawn = np.bincount(stratum, minlength=len(sizes))
    weight = (sizes / np.maximum(drawn, 1))[stratum]  # [v]
    levels = [np.unique(values, return_inverse=True)[1] for values in (a, b)]
    value = float(_correlations(weight[None], *levels)[0])
    if v < 5:
        return Correlation(round(value, 12), None, v)
    random = np.random.default_rng(stream_seed(seed, "agreement"))
    resampled = [
        _correlations(weight * times, *levels)
        for times in _resampled(drawn[drawn > 0], random, at_once=max(1, AT_ONCE // v))
    ]
    found = np.concatenate(resampled)
    found = found[np.isfinite(found)]  # a resample may hold one value alone
    if not len(found):
        return Correlation(round(value, 12), None, v)
    low, high = np.quantile(found, [0.025, 0.975])
    return Correlation(round(value, 12), (float(low), float(high)), v)


def ranks(values: Floats) -> Floats:
    """Ranks from 1, equal values sharing the mean of theirs.

    >>> ranks(np.array([5.0, 7.0, 5.0])).tolist()
    [1.5, 3.0, 1.5]
    """
    _, level, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends: Ints = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[level]


def _resampled(drawn: Ints, random: np.random.Generator, *, at_once: int) -> Iterator[Floats]:
    """How often each row counts, [R, v] a time, rows in the order of their strata."""
    groups = _collapsed(drawn)
    for start in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - start)
        yield np.concatenate(
            [random.multinomial(n - 1, [1 / n] * n, count) * (n / (n - 1)) for n in groups], axis=1
        )


def _collapsed(drawn: Ints) -> list[int]:
    """Rows of each stratum, those of one row together with the next; the last with the one before.

    >>> _collapsed(np.array([1, 1, 3, 1, 4, 1]))
    [2, 3, 6]
    """
    groups: list[int] = []
    for n in drawn.tolist():
        if groups and groups[-1] == 1:
            groups[-1] += n
        else:
            groups.append(n)
    if len(groups) > 1 and groups[-1] == 1:
        groups[-2:] = [groups[-2] + 1]
    return groups


def _correlations(weight: Floats, a: Ints, b: Ints) -> Floats:
    """Weighted rank correlations [R] of two columns given by their levels [v]; weight: [R, v]."""
    x, y = _weighted_ranks(weight, a), _weighted_ranks(weight, b)
    total = weight.sum(axis=1, keepdims=True)
    x -= (weight * x).sum(axis=1, keepdims=True) / total
    y -= (weight * y).sum(axis=1, keepdims=True) / total
    both, of_x, of_y = ((weight * p * q).sum(axis=1) for p, q in ((x, y), (x, x), (y, y)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return both / np.sqrt(of_x * of_y)


def _weighted_ranks(weight: Floats, level: Ints) -> Floats:
    """Ranks [R, v]: the weight of all lower values and half of that of equal ones."""
    order = np.argsort(level, kind="stable")
    starts = np.flatnonzero(np.diff(level[order], prepend=-1))
    of_level = np.add.reduceat(weight[:, order], starts, axis=1)  # [R, levels]
    return (np.cumsum(of_level, axis=1) - of_level / 2)[:, level]
