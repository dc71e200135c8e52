"""Draw within regions and top up (steps 7 and 8 of docs/method.md)."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from staff.rng import priorities
from staff.selectors.arguments import as_keys, as_scores, check_known
from staff.selectors.order import hardest, smallest
from staff.selectors.regions import members
from staff.types import REASONS, Budget, Floats, Ints, Keys, Regions, Selection, read_only

OVER_BUDGET, BUDGET, TOP_UP, CUT = (
    REASONS.index(name) for name in ("over-budget", "budget", "top-up", "cut")
)


def draw(
    scores: ArrayLike,
    regions: Regions,
    budget: Budget,
    *,
    within: str = "hardest",
    seed: int = 0,
    keys: ArrayLike | None = None,
) -> Selection:
    """Take m_i rows of every region, then fill up to the total at random.

    `within` says which of a region (`WITHIN`): its hardest (the released code) or a
    random draw (the paper's pseudocode). The top-up comes from what is left of the pool;
    once that is used up, from the lowest-scored of the cut rows.

    scores: [n]. keys: [n] distinct integers, for ties and for the random draws; with the
    same keys, the order of the input does not matter, and a larger m_i adds rows to those
    of a smaller one.

    Returns a Selection of budget.total rows with the reason of each of the n.
    """
    scores = as_scores(scores)
    keys = as_keys(keys, len(scores))
    check_known("within", within, WITHIN)

    reason = np.full(len(scores), OVER_BUDGET, dtype=np.int8)  # [n]
    reason[regions.of_row < 0] = CUT
    for rows, count in zip(members(regions), budget.count.tolist(), strict=True):
        reason[rows[WITHIN[within](scores[rows], keys[rows], count, seed)]] = BUDGET

    left = np.flatnonzero(reason == OVER_BUDGET)
    from_pool = min(budget.top_up, len(left))
    reason[left[smallest(priorities(keys[left], seed, "top-up"), from_pool)]] = TOP_UP

    from_cut = budget.top_up - from_pool
    if from_cut:
        cut = np.flatnonzero(reason == CUT)
        reason[cut] = TOP_UP
        reason[cut[hardest(scores[cut], keys[cut], len(cut) - from_cut)]] = CUT

    rows = np.flatnonzero((reason == BUDGET) | (reason == TOP_UP))
    return Selection(
        rows=read_only(rows),
        reason=read_only(reason),
        method="staff",
        regions=regions,
        budget=budget,
        details={"within": within, "seed": seed},
    )


def _hardest(scores: Floats, keys: Keys, count: int, seed: int) -> Ints:
    return hardest(scores, keys, count)


def _random(scores: Floats, keys: Keys, count: int, seed: int) -> Ints:
    return smallest(priorities(keys, seed, "draw"), count)


WITHIN: dict[str, Callable[[Floats, Keys, int, int], Ints]] = {
    "hardest": _hardest,
    "random": _random,
}
