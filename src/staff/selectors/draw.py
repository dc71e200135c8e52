"""Draw within regions and top up (steps 7 and 8 of docs/method.md)."""

from __future__ import annotations  # or help() shows all that an ArrayLike may be

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from staff.errors import ConfigError
from staff.rng import priorities
from staff.selectors.arguments import as_keys, as_labels, as_scores, check_known
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
    groups: ArrayLike | None = None,
) -> Selection:
    """Take m_i rows of every region, then top up to the total at random.

    `within` says which rows of a region (`WITHIN`): the hardest (the released code), a random
    draw (the paper's pseudocode), or a draw spread over `groups` (not in the paper): a random
    row of each group in turn, until the budget is used up. The top-up comes from the rest of
    the pool; when that is used up, from the lowest-scored of the cut rows.

    scores: [n]. keys: [n] distinct integers, for ties and for the random draws; with the
    same keys, the order of the input does not matter, and a larger m_i adds rows to those
    of a smaller one. groups: integers [n], for "spread", e.g. clusters of features.

    Returns a Selection of budget.total rows, with a reason for each of the n rows. Raises
    ConfigError for an unknown `within` or "spread" without groups, DataError for unusable
    scores, keys or groups.
    """
    scores = as_scores(scores)
    keys = as_keys(keys, len(scores))
    check_known("within", within, WITHIN)
    group = groups_for(within, groups, len(scores))

    reason = np.full(len(scores), OVER_BUDGET, dtype=np.int8)  # [n]
    reason[regions.of_row < 0] = CUT
    for rows, count in zip(members(regions), budget.count.tolist(), strict=True):
        chosen = WITHIN[within](scores[rows], keys[rows], count, seed, group[rows])
        reason[rows[chosen]] = BUDGET

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


def _hardest(scores: Floats, keys: Keys, count: int, seed: int, group: Ints) -> Ints:
    return hardest(scores, keys, count)


def _random(scores: Floats, keys: Keys, count: int, seed: int, group: Ints) -> Ints:
    return smallest(priorities(keys, seed, "draw"), count)


def _spread(scores: Floats, keys: Keys, count: int, seed: int, group: Ints) -> Ints:
    priority = priorities(keys, seed, "draw")
    return np.lexsort((priority, turn_of(priority, group)))[:count]


def groups_for(within: str, groups: ArrayLike | None, n: int) -> Ints:
    """Number int64 [n] of each row's group; one group if `within` does not go by them.

    Raises ConfigError if it does and there are none, DataError if they are not one a row.
    """
    if within != "spread":
        return np.zeros(n, np.int64)
    if groups is None:
        raise ConfigError("within 'spread' needs groups to spread over")
    return as_labels(groups, n, name="groups")


def turn_of(priority: Keys, group: Ints) -> Ints:
    """In which turn each row is taken when every group gives a row a turn, lowest priority first.

    >>> turn_of(np.array([30, 10, 20], np.uint64), np.array([7, 7, 8]))
    array([1, 0, 0])
    """
    order = np.lexsort((priority, group))
    numbers = group[order]
    starts = np.searchsorted(numbers, numbers, side="left")
    turn = np.empty(len(group), np.int64)
    turn[order] = np.arange(len(group)) - starts
    return turn


WITHIN: dict[str, Callable[[Floats, Keys, int, int, Ints], Ints]] = {
    "hardest": _hardest,
    "random": _random,
    "spread": _spread,
}
