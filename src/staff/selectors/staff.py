"""STAFF, speculative coreset selection (Zhang et al., ICLR 2025): steps 3 to 8."""

from __future__ import annotations  # or help() shows all that an ArrayLike may be

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial
from math import fsum
from numbers import Integral
from typing import overload

import numpy as np
from numpy.typing import ArrayLike

from staff.errors import ConfigError
from staff.selectors.arguments import (
    as_keys,
    as_scores,
    check_known,
    check_total,
    count_of,
)
from staff.selectors.budgets import ALLOCATIONS, allocate
from staff.selectors.draw import WITHIN, draw, groups_for
from staff.selectors.regions import STRATIFY_BY, stratify
from staff.selectors.released import minmax, over_all_rows, running_sum
from staff.selectors.rounds import AUTO, CAP, TOLERANCE, verify_in_rounds
from staff.selectors.verification import choose_rows, weigh
from staff.types import Ints, Regions, Selection, Verification
from staff.words import rows_of

Verify = Callable[[Ints], ArrayLike]  # rows [v] -> the target's scores [v]

PRESETS: dict[str, dict[str, str | float]] = {
    "released": {"allocation": "shares", "within": "hardest", "cut": 0.1},
    "paper": {"allocation": "paper", "within": "random", "cut": 0.0},
}


@overload
def select_staff(
    *,
    scores: ArrayLike,
    total: int,
    verify: Verify,
    against: Verify | None = ...,
    seed: int = ...,
    keys: ArrayLike | None = ...,
    candidates: ArrayLike | None = ...,
    regions: int = ...,
    stratify_by: str = ...,
    verify_per_region: int | str = ...,
    verify_tolerance: float = ...,
    verify_cap: int = ...,
    cut: float = ...,
    allocation: str = ...,
    within: str = ...,
    groups: ArrayLike | None = ...,
    normalise: str = ...,
) -> Selection: ...
@overload
def select_staff(
    *,
    scores: ArrayLike,
    total: Sequence[int],
    verify: Verify,
    against: Verify | None = ...,
    seed: int = ...,
    keys: ArrayLike | None = ...,
    candidates: ArrayLike | None = ...,
    regions: int = ...,
    stratify_by: str = ...,
    verify_per_region: int | str = ...,
    verify_tolerance: float = ...,
    verify_cap: int = ...,
    cut: float = ...,
    allocation: str = ...,
    within: str = ...,
    groups: ArrayLike | None = ...,
    normalise: str = ...,
) -> tuple[Selection, ...]: ...
def select_staff(
    *,
    scores: ArrayLike,
    total: int | Sequence[int],
    verify: Verify,
    against: Verify | None = None,
    seed: int = 0,
    keys: ArrayLike | None = None,
    candidates: ArrayLike | None = None,
    regions: int = 50,
    stratify_by: str = "width",
    verify_per_region: int | str = 10,
    verify_tolerance: float = TOLERANCE,
    verify_cap: int = CAP,
    cut: float = 0.1,
    allocation: str = "shares",
    within: str = "hardest",
    groups: ArrayLike | None = None,
    normalise: str = "none",
) -> Selection | tuple[Selection, ...]:
    """Choose coresets by the small model's scores, verified on the target.

    scores: [n], the small model's effort scores S_d^s, finite.
    total: m, or several values, which share one verification; then the result is a tuple.
    verify: takes rows int64 [v], sorted, and returns the target's scores of them, [v]. It is
        called at most once, with v ≤ verify_per_region·regions rows (not at all if no region
        has more than `verify_per_region` rows); with "auto" once per round, with new rows.
    against: like `verify`, for the scores by which the target's are divided, if those are not
        `scores`: the small model's before fine-tuning, when it has not learnt the task, like
        the target. Called after `verify`, with the same rows.
    keys: [n] distinct integers, one per row (`staff.rng.keys_of_ids`), for ties and random
        draws: with them the order of the input does not matter. Default: positions.
    candidates: bool [n], the rows that `verify` may be called with (default: all), to select
        again from existing target scores.
    regions, verify_per_region, cut: K, b_v and the fraction of highest scores dropped. Regions
        of b_v rows or fewer are not verified, so a small n needs a smaller K (`staff select`
        makes one region per 20 rows of the pool, at most 50). b_v may
        be "auto": as many rows of each region as it takes for budgets that are stable within
        `verify_tolerance`, at most `verify_cap` in total (`rounds.verify_in_rounds`).
    stratify_by: regions of equal "width" in score (the paper), or with equal "count" of rows.
    allocation: "shares", "paper", or "shrunk": shares of ratios shrunk towards their mean by
        their sampling error (`verification.shrink`).
    within: "hardest", "random", or "spread" over `groups` (integers [n], e.g. clusters of
        features). `PRESETS` has allocation, within and cut of the released code and the paper.
    normalise: "minmax" is for comparisons with the released code; it scores *all* rows on the
        target, so it takes neither `candidates` nor `against`.

    Everything is checked before `verify` is called. Raises DataError for unusable scores,
    keys, groups or candidates, ConfigError for unusable settings.

    >>> small = np.arange(100.0)
    >>> coreset = select_staff(
    ...     scores=small, total=20, verify=lambda rows: 2 * small[rows], regions=5
    ... )
    >>> len(coreset.rows), len(coreset.verification.rows), coreset.budget.count.tolist()
    (20, 50, [4, 4, 4, 4, 4])
    """
    scores = as_scores(scores)
    n = len(scores)
    keys = as_keys(keys, n)
    totals = _check_totals(total, n)
    check_known("allocation", allocation, ALLOCATIONS)
    check_known("within", within, WITHIN)
    groups = groups_for(within, groups, n)
    check_known("stratify by", stratify_by, STRATIFY_BY)
    check_known("normalise", normalise, ("minmax", "none"))
    add: Callable[[Iterable[float]], float] = fsum
    if normalise == "minmax":
        if candidates is not None or against is not None:
            raise ConfigError(
                "normalise 'minmax' scores all rows on the target and compares them with `scores`: "
                "leave out candidates and against"
            )
        scores, verify, add = minmax(scores), over_all_rows(verify, n), running_sum

    pool, ratios = measure(
        scores,
        verify,
        against=against,
        seed=seed,
        keys=keys,
        candidates=candidates,
        regions=regions,
        stratify_by=stratify_by,
        verify_per_region=verify_per_region,
        verify_tolerance=verify_tolerance,
        verify_cap=verify_cap,
        cut=cut,
        add=add,
    )
    budgets = [allocate(pool, ratios, total=m, allocation=allocation) for m in totals]
    chosen = partial(draw, within=within, seed=seed, keys=keys, groups=groups)
    drawn = [chosen(scores, pool, m_i) for m_i in budgets]

    coresets = tuple(replace(coreset, verification=ratios) for coreset in drawn)
    return coresets[0] if isinstance(total, Integral) else coresets


def measure(
    scores: ArrayLike,
    verify: Verify,
    *,
    against: Verify | None = None,
    seed: int = 0,
    keys: ArrayLike | None = None,
    candidates: ArrayLike | None = None,
    regions: int = 50,
    stratify_by: str = "width",
    verify_per_region: int | str = 10,
    verify_tolerance: float = TOLERANCE,
    verify_cap: int = CAP,
    cut: float = 0.1,
    add: Callable[[Iterable[float]], float] = fsum,
) -> tuple[Regions, Verification]:
    """Steps 3 to 5, which are the same for every total: cut, stratify, verify, weigh.

    Takes what `select_staff` takes, and raises as it does.
    """
    scores = as_scores(scores)
    pool = stratify(scores, regions=regions, cut=cut, by=stratify_by, keys=keys)

    def ask(rows: Ints) -> tuple[ArrayLike, ArrayLike]:
        target = verify(rows)
        return scores[rows] if against is None else against(rows), target

    if isinstance(verify_per_region, str):
        check_known("verify per region", verify_per_region, (AUTO,))
        ratios = verify_in_rounds(
            pool,
            ask,
            tolerance=verify_tolerance,
            cap=verify_cap,
            seed=seed,
            keys=keys,
            among=candidates,
            add=add,
        )
        return pool, ratios
    rows = choose_rows(pool, per_region=verify_per_region, seed=seed, keys=keys, among=candidates)
    small, target = ask(rows) if len(rows) else (np.empty(0), np.empty(0))
    return pool, weigh(small, target, rows, pool, add=add)


def total_of(keep: float | str | Decimal, n: int) -> int:
    """m = ⌊keep·n⌋, with `keep` read as a decimal: 0.29 of 100 is 29.

    Raises ConfigError for a fraction outside (0, 1] and for one that keeps no row.

    >>> total_of(0.29, 100)
    29
    """
    try:
        in_range = 0 < Decimal(str(keep)) <= 1
    except ArithmeticError:  # not a number
        in_range = False
    if not in_range:
        raise ConfigError(f"keep must be above 0 and at most 1; got {keep}")
    total = count_of(keep, n)
    if total == 0:
        raise ConfigError(f"keep {keep} of {rows_of(n)} is less than one row; keep more")
    return total


def _check_totals(total: int | Sequence[int], n: int) -> list[int]:
    try:
        totals = [total] if isinstance(total, Integral) else list(total)  # type: ignore[arg-type]
    except TypeError:
        raise ConfigError(f"total must be a whole number of rows; got {total!r}") from None
    if not totals:
        raise ConfigError("total is an empty list; give at least one number of rows")
    return [check_total(m, n) for m in totals]  # type: ignore[arg-type]
