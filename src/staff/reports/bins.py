"""Columns of selection.parquet reduced to what a chart draws: n rows in, a few numbers out.

A chart never gets one mark per row: distributions become counts in bins, and where every row
would be a point, a bounded sample is drawn.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from staff.rng import priorities
from staff.types import Bools, Floats, Ints

SCORE_BINS = 50  # about as many as are told apart on a screen
LENGTH_BINS = 40


@dataclass(frozen=True, slots=True)
class Bins:
    """Counts of some groups of rows in common bins.

    edges: float64 [B + 1]. counts: group -> int64 [B]. beyond: rows above the last edge.
    """

    edges: Floats
    counts: dict[str, Ints]
    beyond: int


def intervals(regions: Sequence[Mapping[str, Any]]) -> int:
    """How many of the narrowest region lie between the first's lower and the last's upper edge.

    Of regions of equal width, of which empty ones are left out, this is K as asked for.
    """
    width = min(region["upper"] - region["lower"] for region in regions)
    span = float(regions[-1]["upper"] - regions[0]["lower"])
    return max(1, round(span / width)) if 0 < width < span < math.inf else 1


def bin_scores(scores: Floats, *, threshold: float, regions: int, **groups: Bools) -> Bins:
    """Scores [n] in bins that divide the regions evenly, or of a like width if those are many.

    threshold: the highest score that was not cut; bins go on above it by half the pool's
    width at most, since a few cut scores may be many times higher. regions: K as asked for.
    A pool of equal scores is one bin that ends at them.
    """
    low, top = float(scores.min()), float(scores.max())
    width = threshold - low or abs(low) or 1.0
    below = regions * math.ceil(SCORE_BINS / 2 / regions) if regions <= SCORE_BINS else SCORE_BINS
    step = width / below
    if threshold == low:
        low, below = low - step, 1
    above = math.ceil(min(max(top - threshold, 0.0), width / 2) / step - 1e-9)
    edges = low + step * np.arange(below + above + 1, dtype=np.float64)
    edges[below] = threshold  # to the last bit, so that no row changes sides
    return _count(scores, edges, groups)


def most(values: Floats) -> float:
    """The highest value that is no outlier: a few may be many times higher than all others.

    An outlier is above both the 99th percentile and Tukey's outer fence, which is three times the
    interquartile range above the upper quartile.
    """
    lower, upper = np.percentile(values, (25, 75))
    fence = upper + 3 * (upper - lower)
    limit = max(fence, np.percentile(values, 99, method="lower"))
    return float(values[values <= limit].max())


def bin_lengths(lengths: Floats, *, tail: bool = False, **groups: Bools) -> Bins:
    """Whole numbers [n] in bins of one whole width, up to the 99th percentile.

    The first bin (low - 1, low - 1 + step] begins with the smallest number there is. tail: up to
    the last that is no outlier, and above it by half of that width at most, as `bin_scores` does.
    """
    low, high = float(lengths.min()), float(np.percentile(lengths, 99, method="higher"))
    if tail:
        end = most(lengths)
        high = min(float(lengths.max()), float(math.floor(end + (end - low) / 2)))
    step = math.ceil((high - low + 1) / LENGTH_BINS)
    bins = math.ceil((high - low + 1) / step)
    return _count(lengths, low - 1 + step * np.arange(bins + 1, dtype=np.float64), groups)


def _count(values: Floats, edges: Floats, groups: dict[str, Bools]) -> Bins:
    """A bin holds its upper edge, as a region does, and the first its lower one too."""
    at = np.maximum(np.searchsorted(edges, values, side="left") - 1, 0)
    size = len(edges)  # one more than there are bins: the last entry is what lies beyond
    counts = {name: np.bincount(at[rows], minlength=size)[:-1] for name, rows in groups.items()}
    return Bins(edges, counts, int(np.count_nonzero(values > edges[-1])))


def count_by_region(region: Ints, rows: Bools, regions: int) -> Ints:
    """How many of `rows` lie in each region, int64 [K]; cut rows (-1) are in none."""
    return np.bincount(region[rows & (region >= 0)], minlength=regions)


def sample(rows: Ints, count: int, *, seed: int) -> Ints:
    """At most `count` of these rows, the same ones in whatever order they come; sorted."""
    if len(rows) <= count:
        return np.sort(rows)
    order = priorities(rows.astype(np.uint64), seed, "report")
    return np.sort(rows[np.argpartition(order, count - 1)[:count]])
