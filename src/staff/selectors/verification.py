"""Verify: which rows the target scores, and how the models compare (step 5 of docs/method.md)."""

from __future__ import annotations  # or help() shows all that an ArrayLike may be

import math
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import ArrayLike

from staff.errors import DataError
from staff.rng import priorities
from staff.selectors.arguments import as_floats, as_keys, check_at_least_one
from staff.selectors.order import smallest
from staff.selectors.regions import members
from staff.types import Floats, Ints, Regions, Verification, read_only

NORMAL_95 = 1.959963984540054  # of a normal distribution, 95 % lie within so many deviations


def choose_rows(
    regions: Regions,
    *,
    per_region: int | Ints = 10,
    seed: int = 0,
    keys: ArrayLike | None = None,
    among: ArrayLike | None = None,
) -> Ints:
    """Draw B_i*: b_v = `per_region` random rows of every region with more than b_v.

    Returns int64 [v], sorted, v ≤ b_v·K. A region of b_v rows or fewer is not verified.
    The draw has its own random stream, so b_v never changes which rows are drawn into the
    coreset, and in each region a larger b_v adds rows to those of a smaller one.

    per_region: b_v, or int64 [K], a number for each region, whatever its size (0: not verified).

    among: bool [n], the rows that may be drawn (default: all), for example those whose target
    score is already known. A region with none of them is not verified.

    Raises DataError for unusable keys or `among`, ConfigError for a number below 1.
    """
    keys = as_keys(keys, len(regions.of_row))
    allowed = np.ones(len(keys), np.bool_) if among is None else np.asarray(among)
    if allowed.shape != keys.shape or allowed.dtype != np.bool_:
        raise DataError(
            f"the rows that may be verified must be {len(keys)} booleans, one per row; "
            f"got shape {allowed.shape} of {allowed.dtype}"
        )
    if isinstance(per_region, np.ndarray):
        counts = per_region
    else:
        b_v = check_at_least_one("verify per region", per_region)
        counts = np.where(regions.sizes > b_v, b_v, 0)
    drawn = [np.empty(0, dtype=np.int64)]
    for rows, count in zip(members(regions), counts.tolist(), strict=True):
        if count:
            rows = rows[allowed[rows]]
            drawn.append(rows[smallest(priorities(keys[rows], seed, "verify"), count)])
    return read_only(np.sort(np.concatenate(drawn)))


def weigh(
    small: ArrayLike,
    target: ArrayLike,
    rows: ArrayLike,
    regions: Regions,
    *,
    add: Callable[[Iterable[float]], float] = math.fsum,
) -> Verification:
    """Compare the target's scores with the small model's, region by region.

    V_i = Σ_{d∈B_i*} S_d^t / Σ_{d∈B_i*} S_d^s (Zhang et al., ICLR 2025), from raw
    norms: the shares of step 6 do not change when either model's scores are rescaled.

    small, target: [v], both models' scores of `rows` [v]. add: the sum function; the default
    rounds once, so the order of the rows does not matter.

    A sum that is not finite and positive gives ratio 1 and sets the flag. Raises DataError
    if the three differ in length, are not numbers, or a row was cut.
    """
    rows = np.asarray(rows, dtype=np.int64)
    small, target = one_score_per_row(small, target, rows)
    order = np.argsort(rows, kind="stable")
    rows, small, target = rows[order], small[order], target[order]
    region = regions.of_row[rows]  # [v]
    if np.any(region < 0):
        raise DataError(f"row {rows[region < 0][0]} was cut and is in no region to verify")

    K, sizes = regions.count, regions.sizes
    ratio = np.full(K, np.nan)
    interval = np.full((K, 2), np.nan)
    flagged = np.zeros(K, dtype=np.bool_)
    count = np.bincount(region, minlength=K)
    by_region = np.split(np.argsort(region, kind="stable"), np.cumsum(count)[:-1])
    for i in np.flatnonzero(count):
        s, t = small[by_region[i]], target[by_region[i]]
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            ratio[i] = np.float64(_sum(t, add)) / np.float64(_sum(s, add))
        flagged[i] = not 0 < ratio[i] < math.inf
        if flagged[i]:
            ratio[i] = 1.0
        else:
            interval[i] = _interval(s, t, float(ratio[i]), size=int(sizes[i]))
    return Verification(
        rows=read_only(rows),
        ratio=read_only(ratio),
        count=read_only(count),
        interval=read_only(interval),
        flagged=read_only(flagged),
    )


def one_score_per_row(small: ArrayLike, target: ArrayLike, rows: Ints) -> tuple[Floats, Floats]:
    """Both models' scores of `rows` [v] as float64 [v].

    Raises DataError if they are not numbers, or not one per row.
    """
    small = as_floats(small, name="the small model's scores of the verified rows")
    target = as_floats(target, name="the target's scores")
    if not small.shape == target.shape == rows.shape or rows.ndim != 1:
        raise DataError(
            f"verification needs one score per row from both models; got {rows.shape} rows, "
            f"{small.shape} scores of the small model and {target.shape} of the target"
        )
    return small, target


def shrink(verification: Verification) -> Floats:
    """Each ratio shrunk towards the mean of all, the more the larger its error; float64 [K].

    Not in the paper. In logarithms, because ratios have no scale: y_i = ln V_i is assumed to be
    N(μ, τ² + s_i²), s_i the relative standard error behind the ratio's interval, and becomes
    μ + τ²/(τ² + s_i²)·(y_i - μ), its empirical-Bayes estimate (Efron and Morris, 1975).
    μ is the mean of the y_i, τ² = max(0, their variance - the mean of s_i²) (Hedges and
    Olkin, 1985). With τ² = 0 all become equal: the differences are no larger than sampling
    alone would make them. A ratio without an interval, or flagged, becomes e^μ; NaN stays NaN.
    """
    ratio, error = verification.ratio, relative_errors(verification)
    known = ~np.isnan(error)  # flagged ratios have no interval
    if not known.any():
        return ratio
    error = error[known]  # s_i
    y = np.log(ratio[known])
    spread = float(np.var(y, ddof=1)) if len(y) > 1 else 0.0
    between = max(0.0, spread - float(np.mean(error**2)))  # τ²
    total = between + error**2
    trust = np.divide(between, total, out=np.zeros_like(total), where=total > 0)
    shrunk = np.where(np.isnan(ratio), np.nan, np.exp(y.mean()))
    shrunk[known] = np.exp(y.mean() + trust * (y - y.mean()))
    return shrunk


def relative_errors(verification: Verification) -> Floats:
    """s_i, the standard error of each ratio over the ratio, float64 [K]; NaN without interval."""
    error = np.full(len(verification.ratio), np.nan)
    known = np.flatnonzero(~np.isnan(verification.interval[:, 1]))
    for i in known.tolist():
        quantile = student_95(int(verification.count[i]) - 1)
        error[i] = (verification.interval[i, 1] / verification.ratio[i] - 1) / quantile
    return error


def unverified(count: int) -> Verification:
    """What is known of `count` regions before the target has scored anything."""
    return Verification(
        rows=read_only(np.empty(0, np.int64)),
        ratio=read_only(np.full(count, np.nan)),
        count=read_only(np.zeros(count, np.int64)),
        interval=read_only(np.full((count, 2), np.nan)),
        flagged=read_only(np.zeros(count, np.bool_)),
    )


def _sum(values: Floats, add: Callable[[Iterable[float]], float]) -> float:
    """The sum; NaN unless it is finite and positive."""
    if not np.all(np.isfinite(values)):
        return math.nan
    try:
        total = float(add(values))
    except OverflowError:  # math.fsum beyond the largest float64
        return math.nan
    return total if 0 < total < math.inf else math.nan


def _interval(small: Floats, target: Floats, ratio: float, *, size: int) -> tuple[float, float]:
    """95 % interval of a ratio estimator (delta method), NaN from one row.

    For b of the region's N rows, drawn without replacement, with T = Σt and S = Σs:
    Var V ≈ V²·(1 − b/N)·b/(b − 1)·Σ(t/T − s/S)² (Cochran, Sampling Techniques, chapter 6,
    divided through by T), and Student's t at b − 1 degrees of freedom because b is
    small. A ratio of norms is not negative, so neither is the lower end.
    """
    b = len(small)
    if b < 2:
        return math.nan, math.nan
    residual = target / math.fsum(target) - small / math.fsum(small)  # V·s/T is s/S
    variance = (1 - b / size) * b / (b - 1) * math.fsum(residual**2)
    reach = ratio * student_95(b - 1) * math.sqrt(variance)
    return max(0.0, ratio - reach), ratio + reach


def student_95(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, within 0.2 %.

    Closed forms at 1 and 2 degrees of freedom, the normal quantile with Fisher and
    Cornish's correction elsewhere (Abramowitz and Stegun, 26.7.5).

    >>> round(student_95(9), 3)
    2.262
    """
    if freedom == 1:
        return math.tan(0.475 * math.pi)
    if freedom == 2:
        return 0.95 * math.sqrt(2 / (1 - 0.95**2))
    z = NORMAL_95
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


def widening(items: int) -> float:
    """How many times as wide as the bootstrap's an interval over so many items, two or more, is.

    Of few items the bootstrap knows too little: see `staff.compare.statistics`.

    >>> round(widening(5), 2), round(widening(400), 3)
    (1.58, 1.004)
    """
    return math.sqrt(items / (items - 1)) * student_95(items - 1) / NORMAL_95
