"""Is the small model a good proxy for the target? Judged from the verified rows (docs/proxy.md)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from staff.selectors.agreement import Correlation, rank_correlation, stratified_correlation
from staff.selectors.rounds import budget_error
from staff.types import Budget, Floats, Ints, Regions, Selection, Verification

GOOD, WEAK = 0.5, 0.3  # rank correlations: conventions, explained in docs/proxy.md
# Beyond these, the ratios are little more than the inverse of the small model's scores.
FALLING, SLOPE, REGIONS = -0.8, -0.5, 5

ADVICE = {
    "order": "",
    "inverse ratios": (
        "the ratios fall almost as the inverse of the small model's scores, as happens when only "
        "the small model is fine-tuned: the budget goes to easy rows. Run again with "
        "--verify-against untuned, which compares both models before fine-tuning"
    ),
    "part of the order": (
        "compare the coreset with a random subset (staff compare) before you rely on it; a larger "
        "small model of the family may agree better"
    ),
    "perhaps the order": (
        f"the interval contains {GOOD}, the limit between weak and good: verify more rows "
        "({more}), or compare the coreset with a random subset (staff compare) before you rely on "
        "it"
    ),
    "too few rows": "the interval is too wide to tell: verify more rows ({more})",
    "another order": (
        "use another small model of the target's family, or compare the coreset with a random "
        "subset (staff compare)"
    ),
    "no spread": ("equal scores give no reason to prefer any row: check the data and the model"),
}


@dataclass(frozen=True, slots=True)
class Trend:
    """How the ratios V_i go with the small model's score over so many regions.

    rank: rank correlation of V_i with the mean score, which is minus that with one over it.
    slope: of ln V_i against the logarithm of the mean score; 0 where both models' scores grow
    alike, -1 where the target's do not grow at all and V_i is one over the small model's score.
    """

    regions: int
    rank: float
    slope: float

    @property
    def inverse(self) -> bool:
        """Whether the ratios are little more than one over the small model's score."""
        return self.regions >= REGIONS and self.rank <= FALLING and self.slope <= SLOPE


def proxy_facts(
    selections: Mapping[str, Selection],
    *,
    small: Floats,
    target: Floats,
    untuned: Floats | None,
    tuned: bool,
    verify_per_region: int | str,
    seed: int,
    stored: bool = False,
) -> dict[str, Any]:
    """The manifest's `proxy`: correlation, trend of the ratios, budget moved, verdict, advice.

    small, target: [n], both models' scores. untuned: those of the small model before
    fine-tuning, if the ratios are made of them: then the correlation is, too. tuned: whether the
    small model was fine-tuned on the data. verify_per_region: the setting, for the advice.
    stored: whether the rows were verified by the run that --scores names.

    Of the verified rows; {} if there are none.
    """
    first = next(iter(selections.values()))
    regions, verification = first.regions, first.verification
    if regions is None or verification is None or not len(verification.rows):
        return {}
    compared = small if untuned is None else untuned
    rows = verification.rows
    rows = rows[np.isfinite(target[rows]) & np.isfinite(compared[rows])]
    of_row = regions.of_row[rows]
    weighted = stratified_correlation(
        compared[rows], target[rows], of_row, regions.sizes, seed=seed
    )
    sampled = rank_correlation(compared[rows], target[rows])
    trend = trend_of(regions, verification, small)
    inverse = trend is not None and trend.inverse and tuned and untuned is None
    verdict, because = ("weak", "too few rows")
    if len(rows) > 1:  # else there is no order to agree on
        verdict, because = judge(weighted, inverse=inverse)
    told, of = told_apart(verification)
    more = more_rows(verify_per_region, regions.sizes)
    if stored:  # selecting from stored scores never runs the target
        more = f"in the run that --scores names: {more}"
    return {
        "verdict": verdict,
        "because": because,
        "advice": ADVICE[because].format(more=more),
        "rows": len(rows),
        "compared": "tuned" if untuned is None and tuned else "untuned",
        "spearman": None if weighted is None else weighted.value,
        "interval": None if weighted is None or weighted.interval is None else weighted.interval,
        "spearman_of_sample": None if sampled is None else sampled.value,
        "ratio_trend": None if trend is None else {"rank": trend.rank, "slope": trend.slope},
        "ratios_told_apart": {"regions": told, "of": of},
        "budget_error": budget_error(verification, regions.sizes),
        "budget_moved": {
            name: moved(s.budget) for name, s in selections.items() if s.budget is not None
        },
    }


def judge(correlation: Correlation | None, *, inverse: bool) -> tuple[str, str]:
    """The verdict, ``good``, ``weak`` or ``do not trust``, and its reason (a key of `ADVICE`)."""
    if inverse:
        return "do not trust", "inverse ratios"
    if correlation is None:
        return "do not trust", "no spread"
    low, high = correlation.interval or (-1.0, 1.0)
    if low >= GOOD:
        return "good", "order"
    if high < WEAK:
        return "do not trust", "another order"
    if low <= 0:
        return "weak", "too few rows"
    return "weak", "part of the order" if high < GOOD else "perhaps the order"


def more_rows(verify_per_region: int | str, sizes: Ints) -> str:
    """What to set for more verified rows than this setting gave in regions of these sizes [K].

    >>> more_rows(10, np.array([21, 400])), more_rows(10, np.array([11, 20]))
    ('--verify-per-region 20, or auto', 'fewer --regions, or --verify-per-region auto')
    """
    if isinstance(verify_per_region, str):
        return "a smaller --verify-tolerance"
    now, doubled = (b * np.count_nonzero(sizes > b) for b in np.array([1, 2]) * verify_per_region)
    if doubled <= now:  # most regions would be too small to be verified at all
        return "fewer --regions, or --verify-per-region auto"
    return f"--verify-per-region {2 * verify_per_region}, or auto"


def trend_of(regions: Regions, verification: Verification, small: Floats) -> Trend | None:
    """How the ratios go with the small model's scores [n]; None below three regions."""
    known = np.flatnonzero((verification.count > 0) & ~verification.flagged)
    if len(known) < 3:
        return None
    rows = verification.rows
    with np.errstate(over="ignore"):
        total = np.bincount(regions.of_row[rows], small[rows], minlength=regions.count)
    mean = total[known] / verification.count[known]
    ratio = verification.ratio[known]
    ranked = rank_correlation(mean, ratio)
    if ranked is None or not np.all((mean > 0) & np.isfinite(mean)):
        return None
    x, y = np.log(mean), np.log(ratio)
    x = x - x.mean()
    slope = float(np.sum(x * y) / np.sum(x**2))
    return Trend(regions=len(known), rank=ranked.value, slope=slope)


def told_apart(verification: Verification) -> tuple[int, int]:
    """How many ratios' 95 % intervals leave out the mean ratio, and of how many."""
    known = ~np.isnan(verification.interval[:, 1])
    if not known.any():
        return 0, 0
    mean = verification.ratio[known].mean()
    low, high = verification.interval[known].T
    return int(np.count_nonzero((mean < low) | (mean > high))), int(known.sum())


def moved(budget: Budget) -> float | None:
    """Share of the budget that lies in other regions than with equal shares (total variation).

    None where the equal shares are not known. 0: verification changed nothing; 1: everything.
    """
    if budget.equal is None:
        return None
    found, equal = (count / max(int(count.sum()), 1) for count in (budget.count, budget.equal))
    return float(np.abs(found - equal).sum() / 2)
