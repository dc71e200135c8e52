"""k-centre greedy: farthest-first traversal (Sener and Savarese, ICLR 2018)."""

from __future__ import annotations  # or help() shows all that an ArrayLike may be

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from staff.rng import priorities
from staff.selectors.arguments import as_features, as_keys, check_total
from staff.selectors.order import smallest
from staff.selectors.picks import from_order
from staff.types import Ints, Selection

BLOCK = 64  # candidates measured at a time: enough for a matrix product to pay

Vectors = NDArray[np.float32]


def select_k_centre(
    *, features: ArrayLike, total: int, seed: int = 0, keys: ArrayLike | None = None
) -> Selection:
    """Start at a random row, then always take the row farthest from all chosen ones.

    The largest distance from a row to its nearest chosen row is at most twice the optimum
    (Gonzalez, 1985). Distances are Euclidean, in float32.

    features: [n, D], finite. keys: [n] distinct integers for ties (smaller first) and the
    first row; with them the order of the input does not matter. Default: positions.

    Raises DataError for unusable features or keys, ConfigError for a total outside [1, n].

    >>> select_k_centre(features=[[0.0], [1.0], [4.0], [10.0]], total=4).order
    array([3, 0, 2, 1])
    """
    features = as_features(features)
    n = len(features)
    total = check_total(total, n)
    keys = as_keys(keys, n)
    by_key = np.argsort(keys, kind="stable")
    start = int(smallest(priorities(keys[by_key], seed, "k-centre"), 1)[0])
    # In the order of the keys no rounding depends on the order of the input, and argmax,
    # which returns the first of equals, breaks ties by key.
    picks = by_key[_traverse(features[by_key], start, total)]
    return from_order(picks, n, method="k-centre", details={"seed": seed})


def _traverse(vectors: Vectors, start: int, total: int) -> Ints:
    """Picks int64 [total] in order, exactly those of one pass over all rows a pick.

    vectors: [n, D], the caller's own copy: it is moved to its mean here.

    Distances are measured to the BLOCK farthest rows at once, in one matrix product, which
    is several times as fast as BLOCK products with a vector. As long as the farthest row is
    among those, the next pick needs no further product; when it is not, a new block begins.
    """
    # Squares of the largest and smallest float32 are beyond its range. A power of two changes no
    # digit, and the largest distance between numbers below 1/2 is still a number.
    largest = max(float(vectors.max()), -float(vectors.min()))
    np.ldexp(vectors, -1 - math.frexp(largest)[1], out=vectors)
    vectors -= vectors.mean(axis=0, dtype=np.float64)  # x² + c² - 2xc cancels least around 0
    square = np.einsum("nd,nd->n", vectors, vectors)  # [n]
    nearest = np.full(len(vectors), np.inf, np.float32)  # squared distance to the picks
    picks = np.empty(total, np.int64)
    block: dict[int, int] = {}  # row -> its column in `distance`
    distance = np.empty((0, len(vectors)), np.float32)
    row = start
    for i in range(total):
        if row not in block:
            rows = _farthest(nearest, row)
            block = {int(r): column for column, r in enumerate(rows)}
            distance = vectors[rows] @ vectors.T  # [block, n]
            distance *= -2
            distance += square
            distance += square[rows, None]
            np.maximum(distance, 0, out=distance)  # rounding can leave a duplicate below
        picks[i] = row
        np.minimum(nearest, distance[block[row]], out=nearest)
        nearest[row] = -1  # taken: below every distance, a duplicate's too
        row = int(nearest.argmax())
    return picks


def _farthest(nearest: Vectors, row: int) -> Ints:
    """The BLOCK rows farthest from the picks, `row` first."""
    count = min(BLOCK, len(nearest))
    if np.isinf(nearest[row]):  # nothing taken yet: nobody is far
        return np.array([row])
    rows = np.argpartition(nearest, len(nearest) - count)[-count:]
    return np.concatenate([[row], rows[rows != row][: count - 1]])
