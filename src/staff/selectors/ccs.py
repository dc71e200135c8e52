"""CCS, coverage-centric coreset selection (Zheng et al., ICLR 2023)."""

from __future__ import annotations  # or help() shows all that an ArrayLike may be

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from staff.selectors.arguments import (
    as_keys,
    as_scores,
    check_cut,
    check_regions,
    check_total,
    count_of,
)
from staff.selectors.budgets import allocate
from staff.selectors.draw import draw
from staff.selectors.order import hardest
from staff.selectors.regions import equal_width, regions_of
from staff.selectors.verification import unverified
from staff.types import Regions, Selection

MARGIN = 1.0001  # the last stratum ends at this times the highest score


def select_ccs(
    *,
    scores: ArrayLike,
    total: int,
    seed: int = 0,
    keys: ArrayLike | None = None,
    cut: float = 0.1,
    strata: int = 50,
) -> Selection:
    """Cover the whole range of scores except its hard end.

    The ⌊cut·n⌋ highest scores (β) are dropped as likely label errors; the rest is divided into
    strata of equal width (k); the budget is divided equally, smallest stratum first, so that
    what a small stratum cannot use passes on; the rows of a stratum are drawn uniformly.

    scores: [n], finite; higher is harder. keys: [n] distinct integers, one per row, for ties
    and draws: with them the order of the input does not matter. Default: positions.

    A total larger than the pool takes all of it, then the lowest-scored of the cut rows.
    Raises DataError for unusable scores or keys, ConfigError for unusable settings.

    >>> coreset = select_ccs(scores=[1, 2, 3, 11, 12, 99], total=4, cut=0.2, strata=2)
    >>> coreset.budget.count, coreset.regions.of_row
    (array([2, 2]), array([ 0,  0,  0,  1,  1, -1]))
    """
    scores = as_scores(scores)
    keys = as_keys(keys, len(scores))
    total = check_total(total, len(scores))
    pool = stratify_ccs(scores, strata=strata, cut=cut, keys=keys)
    ratios = unverified(pool.count)
    budget = allocate(pool, ratios, total=total)
    drawn = draw(scores, pool, budget, within="random", seed=seed, keys=keys)
    return replace(drawn, method="ccs", verification=ratios)


def stratify_ccs(
    scores: ArrayLike, *, strata: int = 50, cut: float = 0.1, keys: ArrayLike | None = None
) -> Regions:
    """The strata of CCS, as in its released code: `stratify` differs in the edges only.

    Lower edges belong to a stratum, upper ones to the next, and the last ends a little
    above the highest score. Raises as `select_ccs` does.
    """
    scores = as_scores(scores)
    n = len(scores)
    strata = check_regions("strata", strata)
    check_cut(cut)
    in_pool = np.ones(n, dtype=np.bool_)
    in_pool[hardest(scores, as_keys(keys, n), count_of(cut, n))] = False
    pool = scores[in_pool]
    lowest, highest = float(pool.min()), float(pool.max())
    # Their 1.0001·max would lie below a negative maximum.
    upper = min(highest + (MARGIN - 1) * abs(highest), np.finfo(np.float64).max)
    edges = equal_width(lowest, upper, strata)  # [strata + 1]
    stratum = np.searchsorted(edges[1:-1], pool, side="right")
    return regions_of(in_pool, stratum, edges)
