"""Verify region by region until the budgets are stable (`--verify-per-region auto`)."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from staff.errors import ConfigError
from staff.selectors.arguments import check_at_least_one
from staff.selectors.verification import (
    choose_rows,
    one_score_per_row,
    relative_errors,
    weigh,
)
from staff.types import Floats, Ints, Regions, Round, Verification
from staff.words import counted

AUTO = "auto"
START = 5  # rows a region at first: from fewer, an interval says little
TOLERANCE, CAP = 0.05, 2000
AIM = 0.9  # of the tolerance: what is planned from estimates may miss it a little
STEPS = 60  # halvings in the search for a number of rows: beyond them floats are equal

# rows [r] that are new -> scores [r] of the small model and of the target
Ask = Callable[[Ints], tuple[ArrayLike, ArrayLike]]


def verify_in_rounds(
    regions: Regions,
    ask: Ask,
    *,
    tolerance: float = TOLERANCE,
    cap: int = CAP,
    seed: int = 0,
    keys: ArrayLike | None = None,
    among: ArrayLike | None = None,
    add: Callable[[Iterable[float]], float] = math.fsum,
) -> Verification:
    """Draw and weigh (steps 5a to 5c) as many rows of each region as stable budgets need.

    `START` rows of every region that has more; then, round by round, more rows where they lower
    `budget_error` most, at most doubling a region per round, until the error is `tolerance` or
    less, every row is verified, or `cap` rows are. Rows are drawn by the priorities of
    `choose_rows`, so each round adds to the earlier ones and never replaces a row.

    ask: called once per round with the new rows, sorted; not at all if no region has more than
    `START` rows. among: bool [n], the rows it may be called with: then all of them are used in
    one round, since existing scores cost nothing.

    Raises ConfigError as `check_rounds` does, and for a cap that the first round would pass,
    DataError for answers of `ask` that are not one number per row.
    """
    check_rounds(tolerance=tolerance, cap=cap)
    sizes = regions.sizes
    count = np.where(sizes > START, START, 0)
    if among is not None:
        count = np.where(sizes > START, sizes, 0)
    elif count.sum() > cap:
        raise ConfigError(f"verify cap {cap}: {too_few(int(np.count_nonzero(count)))}")
    rows, small, target = np.empty(0, np.int64), np.empty(0), np.empty(0)
    rounds: list[Round] = []
    while True:
        drawn = choose_rows(regions, per_region=count, seed=seed, keys=keys, among=among)
        new = np.setdiff1d(drawn, rows)
        if len(new):
            scored = one_score_per_row(*ask(new), new)
            rows = np.concatenate([rows, new])
            small, target = (
                np.concatenate(both) for both in zip((small, target), scored, strict=True)
            )
        found = weigh(small, target, rows, regions, add=add)
        if not len(rows):
            return found
        rounds.append(Round(len(rows), budget_error(found, sizes)))
        more = grown(found, sizes, tolerance=tolerance, cap=cap)
        enough = among is not None or rounds[-1].error <= tolerance
        if enough or np.array_equal(more, count):
            return replace(found, rounds=tuple(rounds))
        count = more


def budget_error(verification: Verification, sizes: Ints) -> float:
    """The share of the budget expected to be in other regions than if every row were verified.

    The shares p_i = V_i / Σ V_j are estimates because the V_i are. With s_i the relative standard
    errors of these (`relative_errors`; 0 where every row was verified), to first order
    Var p_i = p_i²·((1 − 2p_i)·s_i² + Σ_j p_j²·s_j²), and the expected total variation between
    estimated and exact shares is ½·√(2/π)·Σ_i √Var p_i, p_i being nearly normal. For budgets it
    is an upper estimate: regions not verified, or taken whole, do not depend on a ratio.

    sizes: |B_i|, int64 [K].
    """
    share, spread = _shares_and_spread(verification, sizes)
    return _error(share, spread, verification.count, sizes)


def grown(verification: Verification, sizes: Ints, *, tolerance: float, cap: int) -> Ints:
    """Rows to have verified of each region after the next round, int64 [K].

    About the fewest that bring `budget_error` down to `AIM` of the tolerance, if scores spread
    within the regions as they were found to. For Σ_i p_i·σ_i/√b_i to be small at a given Σ b_i,
    b_i goes like (p_i·σ_i)^⅔ (Lagrange; Neyman's rule is the same for a sum of squares). No region
    loses rows or gets more than twice as many; `cap` is never passed.
    """
    count = verification.count
    share, spread = _shares_and_spread(verification, sizes)
    weight = (share * spread) ** (2 / 3)
    limit = np.where(weight > 0, np.minimum(2 * count, sizes), count)

    def at(scale: float) -> Ints:
        return np.clip(np.ceil(scale * weight), count, limit).astype(np.int64)

    def enough(rows: Ints) -> bool:
        return _error(share, spread, rows, sizes) <= AIM * tolerance or bool(rows.sum() > cap)

    low, high = 0.0, float(np.max(limit[weight > 0] / weight[weight > 0], initial=0.0))
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(at(middle)) else (middle, high)
    return at(high) if at(high).sum() <= cap else at(low)


def not_verified(per_region: int | str) -> int:
    """The size up to which a region is not verified, of a number b_v or "auto"."""
    return START if isinstance(per_region, str) else per_region


def fewer_regions(rows: int, least: int) -> int:
    """How many regions of so many rows hold twice the size that is not verified, or two."""
    return max(2, rows // (2 * least))


def check_rounds(*, tolerance: float, cap: int) -> None:
    """Raise ConfigError for a tolerance outside (0, 1) or a cap that is no number of rows."""
    if not 0 < tolerance < 1:
        raise ConfigError(f"verify tolerance must be above 0 and below 1; got {tolerance}")
    check_at_least_one("verify cap", cap)


def too_few(regions: int) -> str:
    """What is said of a cap that the first round would pass."""
    return (
        f"the first {START} rows of each of {counted(regions, 'region')} are {START * regions}; "
        "raise the cap or lower the number of regions"
    )


def _shares_and_spread(verification: Verification, sizes: Ints) -> tuple[Floats, Floats]:
    """p_i [K] (0 where unverified) and σ_i [K], with s_i² = σ_i²·(1/b_i − 1/|B_i|).

    A verified region whose error is not known, of one row say, is taken for the most uncertain.
    """
    verified = ~np.isnan(verification.ratio)
    ratio = np.where(verified, verification.ratio, 0.0)
    share = ratio / ratio.max() if verified.any() else ratio  # so that no sum overflows
    share = share / share.sum() if verified.any() else ratio
    left = _left(verification.count, sizes)
    error = relative_errors(verification)
    spread = np.divide(error, np.sqrt(left), out=np.zeros_like(error), where=left > 0)
    known = np.isfinite(spread)
    worst = float(np.max(spread[known], initial=0.0)) or 1.0
    unsure = verified & ~verification.flagged & ~known
    return share, np.where(unsure, worst, np.where(known & verified, spread, 0.0))


def _left(count: Ints, sizes: Ints) -> Floats:
    """1/b − 1/N of each region [K]; 0 where nothing is verified."""
    verified = count > 0
    return np.where(verified, 1 / np.maximum(count, 1) - 1 / np.maximum(sizes, 1), 0.0)


def _error(share: Floats, spread: Floats, count: Ints, sizes: Ints) -> float:
    """`budget_error` for so many verified rows."""
    variance = spread**2 * _left(count, sizes)  # s_i²
    common = float(np.sum(share**2 * variance))
    of_share = share**2 * np.maximum((1 - 2 * share) * variance + common, 0.0)
    return float(math.sqrt(2 / math.pi) / 2 * np.sqrt(of_share).sum())
