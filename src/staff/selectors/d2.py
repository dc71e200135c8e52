"""D2 Pruning: difficulty and diversity by message passing (Maharana et al., ICLR 2024)."""

from __future__ import annotations  # or help() shows all that an ArrayLike may be

import heapq
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from staff.errors import ConfigError, DataError
from staff.selectors.arguments import (
    NOT_NUMBERS,
    as_keys,
    as_scores,
    check_cut,
    check_total,
    count_of,
)
from staff.selectors.order import hardest, hardest_first
from staff.selectors.picks import from_order
from staff.types import Floats, Ints, Selection

# Rows [p] -> their nearest neighbours among them: positions in that list int [p, k] (not
# their own) and distances float [p, k].
Connect = Callable[[Ints], tuple[NDArray[np.integer], NDArray[np.floating]]]


def select_d2(
    *,
    scores: ArrayLike,
    connect: Connect,
    total: int,
    keys: ArrayLike | None = None,
    mislabel_ratio: float = 0.1,
    gamma: float = 1.0,
) -> Selection:
    """Take hard rows, and lower the weight of each one's neighbours.

    The ⌊mislabel_ratio·n⌋ highest scores are dropped as likely label errors. On the symmetric
    graph of the rest, a row's density is its score plus messages from its neighbours:

        x_i + Σ_j exp(-d_ij)·x_j

    Then, `total` times, the densest row i is taken, and exp(-gamma·d_ij)·density_i is
    subtracted from the density of each neighbour j.

    scores: [n], finite, ≥ 0. connect: called once, with p rows; returns the nearest of these
    rows to each: their positions in that list, int [p, k], and distances, float [p, k], such as
    `staff.scores.neighbours.nearest(features[rows], k)`. keys: [n] distinct integers for ties
    (smaller first); with them the order of the input does not matter, because `connect` is
    called with the rows in the order of their keys. Default: positions. mislabel_ratio: in
    [0, 1). gamma: finite, ≥ 0.

    A total larger than the pool takes all of it, then the lowest-scored of the cut rows.
    Raises DataError for unusable scores, keys or neighbours, ConfigError for unusable settings.

    Two hard rows that are alike, and an easier one far from both: the second of the twins is
    not taken.

    >>> def nearest(rows):
    ...     return [[1], [0], [0]], [[0.0], [0.0], [9.0]]
    >>> select_d2(scores=[10, 9, 6], connect=nearest, total=2, mislabel_ratio=0).rows
    array([0, 2])
    """
    scores = as_scores(scores)
    n = len(scores)
    keys = as_keys(keys, n)
    total = check_total(total, n)
    check_cut(mislabel_ratio, name="mislabel ratio")
    if not 0 <= gamma < math.inf:  # of infinity, a distance of 0 would make no number
        raise ConfigError(f"gamma must be a finite number of at least 0; got {gamma}")
    if scores.min() < 0:
        raise DataError(f"D2 needs scores of at least 0; row {scores.argmin()} has {scores.min()}")

    cut = np.zeros(n, np.bool_)
    cut[hardest(scores, keys, count_of(mislabel_ratio, n))] = True
    by_key = np.argsort(keys, kind="stable")
    pool = by_key[~cut[by_key]]
    start, other, distance = _symmetric(*_checked(connect(pool), len(pool)))
    density = _gather(scores[pool], start, other, np.exp(-distance))
    reverse = np.exp(-gamma * distance)
    picks = pool[_greedy(density, min(total, len(pool)), start, other, reverse)]

    rest = np.flatnonzero(cut)
    more = rest[hardest_first(-scores[rest], keys[rest], total - len(picks))]
    details = {"mislabel_ratio": mislabel_ratio, "gamma": gamma}
    return from_order(np.concatenate([picks, more]), n, method="d2", cut=cut, details=details)


def _checked(graph: tuple[ArrayLike, ArrayLike], p: int) -> tuple[Ints, Floats]:
    """Neighbours int64 [p, k] and distances float64 [p, k], or DataError."""
    try:
        neighbours, distances = np.asarray(graph[0]), np.asarray(graph[1], dtype=np.float64)
    except NOT_NUMBERS as problem:  # rows with different numbers of neighbours, too
        raise DataError(
            f"a graph of {p} rows has neighbours and distances [{p}, k]: {problem}"
        ) from None
    if neighbours.ndim != 2 or len(neighbours) != p or neighbours.shape != distances.shape:
        raise DataError(
            f"a graph of {p} rows has neighbours and distances [{p}, k]; "
            f"got {neighbours.shape} and {distances.shape}"
        )
    whole = neighbours.dtype.kind in "iu"
    if neighbours.size and not (whole and 0 <= neighbours.min() <= neighbours.max() < p):
        raise DataError(f"neighbours must be positions from 0 to {p - 1}")
    if not np.all(distances >= 0) or not np.all(np.isfinite(distances)):
        raise DataError("distances of neighbours must be finite and at least 0")
    return neighbours.astype(np.int64, copy=False), distances


def _symmetric(neighbours: Ints, distances: Floats) -> tuple[Ints, Ints, Floats]:
    """The graph with every edge in both directions, once, by row.

    start: [p + 1], where each row's edges begin; other: [E], at their far ends; distance [E].
    """
    p, k = neighbours.shape
    one, other = np.repeat(np.arange(p), k), neighbours.ravel()
    low, high = np.minimum(one, other), np.maximum(one, other)
    edge, first = np.unique(low * p + high, return_index=True)
    low, high, distance = edge // p, edge % p, distances.ravel()[first]
    low, high, distance = (a[low != high] for a in (low, high, distance))
    one, other = np.concatenate([low, high]), np.concatenate([high, low])
    order = np.lexsort((other, one))
    start = np.searchsorted(one[order], np.arange(p + 1))
    return start, other[order], np.concatenate([distance, distance])[order]


def _gather(scores: Floats, start: Ints, other: Ints, weight: Floats) -> Floats:
    """Density [p]: each row's own score and its neighbours' messages."""
    one = np.repeat(np.arange(len(scores)), np.diff(start))
    return scores + np.bincount(one, weight * scores[other], minlength=len(scores))


def _greedy(density: Floats, count: int, start: Ints, other: Ints, weight: Floats) -> Ints:
    """The `count` picks in order: always the densest, of equals the first.

    A heap with lazy deletion: an entry counts only if it still has its row's density, so a
    pick costs its neighbours and no pass over all rows.
    """
    current = density.tolist()  # plain floats: ten times faster here than an array's items
    heap = [(-value, row) for row, value in enumerate(current)]
    heapq.heapify(heap)
    chosen = np.zeros(len(current), np.bool_)
    picks: list[int] = []
    while len(picks) < count:
        value, row = heapq.heappop(heap)
        if chosen[row] or -value != current[row]:
            continue
        chosen[row] = True
        picks.append(row)
        edges = slice(start[row], start[row + 1])
        for j, w in zip(other[edges].tolist(), weight[edges].tolist(), strict=True):
            if not chosen[j]:
                current[j] += w * value  # value is minus the density
                heapq.heappush(heap, (-current[j], j))
    return np.array(picks, np.int64)
