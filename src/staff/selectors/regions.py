"""Cut and stratify: the pool and its regions B_1..B_K (steps 3 and 4 of docs/method.md)."""

from __future__ import annotations  # or help() shows all that an ArrayLike may be

import numpy as np
from numpy.typing import ArrayLike

from staff.selectors.arguments import (
    as_keys,
    as_scores,
    check_cut,
    check_known,
    check_regions,
    count_of,
)
from staff.selectors.order import hardest
from staff.types import Bools, Floats, Ints, Regions, read_only

STRATIFY_BY = ("width", "count")
REGIONS = 50  # K of the paper and of CCS's strata
# Of a region of a small pool, on average: twice the paper's b_v, up to which none is verified.
ROWS = 20


def below_cut(n: int, cut: float) -> int:
    """Of n rows those that the cut leaves to the regions."""
    return n - count_of(cut, n)


def regions_for(asked: int | str, pool: int | None = None) -> int:
    """K: as many regions as were asked for; of "auto" `REGIONS`, or one for `ROWS` rows if fewer.

    pool: rows below the cut; None: of a pool of any size.

    >>> regions_for("auto", 10_000), regions_for("auto", 500), regions_for(7, 500)
    (50, 25, 7)
    """
    if isinstance(asked, int):
        return asked
    return REGIONS if pool is None else max(2, min(REGIONS, pool // ROWS))


def stratify(
    scores: ArrayLike,
    *,
    regions: int = 50,
    cut: float = 0.1,
    by: str = "width",
    keys: ArrayLike | None = None,
) -> Regions:
    """Divide the pool into regions, by default of equal width in score.

    The ⌊cut·n⌋ highest scores are cut first as likely noise and label errors (the released
    code; β of CCS). The rest, the pool, is divided between its lowest and highest score into
    `regions` intervals of equal width that include their upper edge (the first also its lower
    edge). Empty regions are dropped. Every row of the pool is in exactly one region, whatever
    the rounding; constant scores make one region. With "count" (not in the paper) the edges are
    quantiles: about equally many rows per region, and fewer regions if many rows have the same
    score.

    scores: [n], finite. cut: in [0, 1). by: "width" or "count". keys: [n] distinct integers
    that say which of equal scores is cut first (smaller first). Default: positions.

    Raises DataError for unusable scores or keys, ConfigError for unusable settings.

    >>> stratify([0.0, 1.0, 2.0, 10.0], regions=5, cut=0.0).of_row
    array([0, 0, 0, 1])
    >>> stratify([0.0, 1.0, 2.0, 10.0], regions=2, cut=0.0, by="count").of_row
    array([0, 0, 1, 1])
    """
    scores = as_scores(scores)
    n = len(scores)
    keys = as_keys(keys, n)
    regions = check_regions("regions", regions)
    check_cut(cut)
    check_known("by", by, STRATIFY_BY)

    in_pool = np.ones(n, dtype=np.bool_)
    in_pool[hardest(scores, keys, count_of(cut, n))] = False
    pool = scores[in_pool]
    if by == "width":
        edges = equal_width(float(pool.min()), float(pool.max()), regions)  # [regions + 1]
    else:
        edges = equal_count(pool, regions)
    # The last upper edge is the pool's maximum itself, so no score lies beyond it.
    interval = np.searchsorted(edges[1:], pool, side="left")
    return regions_of(in_pool, interval, edges)


def regions_of(in_pool: Bools, interval: Ints, edges: Floats) -> Regions:
    """Number the intervals that hold a row of the pool; the empty ones vanish.

    in_pool: [n]. interval: [pool rows], in which interval each lies. edges: [intervals + 1].
    """
    occupied = np.bincount(interval, minlength=len(edges) - 1) > 0
    number = np.cumsum(occupied) - 1  # interval -> region, empty intervals skipped
    of_row = np.full(len(in_pool), -1, dtype=np.int64)
    of_row[in_pool] = number[interval]
    kept_edges = np.stack([edges[:-1], edges[1:]], axis=1)[occupied]  # [K, 2]
    return Regions(of_row=read_only(of_row), edges=read_only(kept_edges))


def members(regions: Regions) -> list[Ints]:
    """Rows of each region, K arrays of int64, ascending."""
    # Sorting 16-bit numbers stably is a radix sort: ten times faster at 10^7 rows.
    small = regions.count < np.iinfo(np.int16).max
    order = np.argsort(regions.of_row.astype(np.int16 if small else np.int64), kind="stable")
    ends = np.cumsum(regions.sizes)
    in_pool = order[len(order) - int(ends[-1]) :]  # the cut rows, -1, come first
    return np.split(in_pool, ends[:-1])


def equal_width(lower: float, upper: float, count: int) -> Floats:
    """Edges [count + 1] from `lower` to `upper`, both exact."""
    if np.isfinite(upper - lower):
        return np.linspace(lower, upper, count + 1)
    return 2 * np.linspace(lower / 2, upper / 2, count + 1)  # the range exceeds float64


def equal_count(pool: Floats, count: int) -> Floats:
    """Edges [≤ count + 1] between which lie about equally many rows: scores that occur.

    Upper edges differ; the first is the lowest score itself where a quantile is that score.

    >>> equal_count(np.array([1.0, 2.0, 3.0, 9.0]), 2)
    array([1., 2., 9.])
    >>> equal_count(np.array([1.0, 1.0, 3.0, 9.0]), 2)
    array([1., 1., 9.])
    """
    ends = -(-np.arange(1, count + 1) * len(pool) // count) - 1  # ⌈i·n/count⌉-th smallest
    upper = np.unique(np.partition(pool, np.unique(ends))[ends])
    return np.concatenate([[pool.min()], upper])
