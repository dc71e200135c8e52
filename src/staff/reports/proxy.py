"""The verdict on the small model in sentences, for the summary and for the page."""

from collections.abc import Mapping, Sequence
from typing import Any

from staff.selectors.regions import REGIONS, ROWS, regions_for
from staff.selectors.rounds import fewer_regions, not_verified
from staff.words import count, counted, rows_of

Facts = Mapping[str, Any]
SAID = {
    "order": "the same rows are hard for both models",
    "inverse ratios": "the ratios are little more than the inverse of the small model's scores",
    "part of the order": "the two models agree only partly on which rows are hard",
    "perhaps the order": (
        "the two models agree at least partly on which rows are hard; too few rows are verified to "
        "tell how well"
    ),
    "too few rows": "too few rows are verified to tell",
    "another order": "the two models do not agree on which rows are hard",
    "no spread": "all verified rows have the same score on one of the models",
}


def headline(proxy: Facts) -> str:
    """The verdict with its reason."""
    return f"{proxy['verdict']}: {SAID.get(proxy['because'], proxy['because'])}"


def findings(proxy: Facts) -> list[str]:
    """What the verdict is based on, one sentence per fact."""
    found = [_correlation(proxy)]
    if (trend := proxy["ratio_trend"]) is not None:
        found.append(
            f"From the easiest region to the hardest, the ratios {_direction(trend['rank'])} (rank "
            f"correlation with the score {trend['rank']:.2f}; when the score doubles, they change "
            f"by a factor of {2 ** trend['slope']:.2f})"
        )
    told = proxy["ratios_told_apart"]
    if told["of"]:
        chance = max(1, round(told["of"] / 20))
        have = "has" if told["regions"] == 1 else "have"
        found.append(
            f"{told['regions']} of {counted(told['of'], 'ratio')} {have} a 95 % "
            f"interval that excludes their mean (about {chance} would by chance alone, more if a "
            "few rows dominate)"
        )
    moves = [share for share in proxy["budget_moved"].values() if share is not None]
    if moves:
        found.append(
            f"Verification moved {_percent(min(moves), max(moves))} of the budget compared with "
            f"equal shares; about {100 * proxy['budget_error']:.2g} % would move again if every "
            "row were verified"
        )
    return found


def region_texts(regions: Sequence[Facts], config: Facts) -> list[str]:
    """What a table of regions cannot tell: those that are not there, or not verified; sentences."""
    return [*_fewer_texts(regions, config), *_unverified_texts(regions, config)]


def _fewer_texts(regions: Sequence[Facts], config: Facts) -> list[str]:
    """Why there are fewer regions than were asked for, or than usual, in sentences; or none."""
    asked, made = config.get("regions"), len(regions)
    pool = sum(region["size"] for region in regions)
    if asked is None or not made:
        return []
    said = []
    if asked == "auto":
        asked = regions_for(asked, pool if config.get("method") == "staff" else None)
        if asked < REGIONS:
            said.append(
                f"--regions auto asked for {count(asked)} instead of {REGIONS}: one per {ROWS} of "
                f"the {rows_of(pool)} below the cut."
            )
    if made < asked:
        left = asked - made
        are = "is" if left == 1 else "are"
        said.append(f"The other {count(left)} of {count(asked)} {are} empty and not listed.")
    return said


def _unverified_texts(regions: Sequence[Facts], config: Facts) -> list[str]:
    """Which regions of a STAFF selection have no verified rows, why, and what to do.

    Sentences; none if every region is verified. If more than a quarter of the rows are in such
    regions, verification has little effect, and there is advice.
    """
    left = [region for region in regions if not region.get("verified")]
    if config.get("method") != "staff" or not left:
        return []
    least = not_verified(config.get("verify_per_region", 10))
    are, they = ("is", "it has") if len(left) == 1 else ("are", "they have")
    rows, pool = (sum(region["size"] for region in some) for some in (left, regions))
    small = all(region["size"] <= least for region in left)
    said = [
        f"{count(len(left))} of {counted(len(regions), 'region')}, with {count(rows)} of "
        f"{rows_of(pool)}, {are} not verified"
        + (f" because {they} {rows_of(least)} or fewer" if small else "")
        + (". They get equal shares." if len(left) > 1 else ". It gets an equal share.")
    ]
    if 4 * rows <= pool:
        return said
    if config.get("scores") and not small:
        said.append(
            "Advice: --scores never runs the target; to verify these regions, repeat the command "
            "of that run with these settings."
        )
    elif small:
        fewer = fewer_regions(pool, least)
        if fewer < len(regions):
            change = f"fewer --regions (about {fewer})"
        elif config.get("stratify_by") == "width" and pool > 2 * least:
            change = "--stratify-by count (regions with equally many rows)"
        else:
            return said
        gain = "to verify more of the rows; the small model's scores are reused"
        if config.get("scores"):
            gain = "to use more of the target's stored scores"
        said.append(f"Advice: run the same command with {change} {gain}.")
    return said


def rounds_text(verification: Facts) -> str:
    """How many rows ``--verify-per-region auto`` verified, and with what result."""
    last = verification["rounds"][-1]
    many = len(verification["rounds"])
    spent = f"{rows_of(last['rows'])} verified in {counted(many, 'round')}"
    error, tolerance = last["error"], verification["tolerance"]
    if verification["stable"]:
        return f"{spent}: the budgets are stable (error {error:.3f}, tolerance {tolerance:g})"
    ended = f"stopped at the cap of {count(verification['cap'])} rows"
    if last["rows"] < verification["cap"]:
        ended = "no more rows to verify"
    return f"{spent}; {ended} (error {error:.3f}, tolerance {tolerance:g})"


def interpolated_text(interpolation: Facts) -> str:
    """How many rows were scored, and how well the other scores were predicted from them."""
    said = f"{rows_of(interpolation['rows_scored'])} scored, the other scores predicted from them"
    if (value := interpolation["spearman"]) is None:
        return said
    ends = interpolation["interval"]
    interval = f", 95 % interval {ends[0]:.2f} to {ends[1]:.2f}" if ends else ""
    return f"{said} (out-of-fold rank correlation {value:.2f}{interval})"


def _correlation(proxy: Facts) -> str:
    if proxy["spearman"] is None:
        return f"{rows_of(proxy['rows'])} verified"
    before = " before fine-tuning" if proxy["compared"] == "untuned" else ""
    ends = proxy["interval"]
    interval = f" (95 % interval {ends[0]:.2f} to {ends[1]:.2f})" if ends else ""
    return (
        f"Rank correlation of the target's scores with the small model's{before}: "
        f"{proxy['spearman']:.2f}{interval}, from {rows_of(proxy['rows'])} weighted to represent "
        "all rows of their regions"
    )


def _direction(rank: float) -> str:
    if abs(rank) < 0.5:
        return "show no clear trend"
    return "rise" if rank > 0 else "fall"


def _percent(low: float, high: float) -> str:
    least, most = f"{100 * low:.2g}", f"{100 * high:.2g}"
    return f"{least} %" if least == most else f"{least} to {most} %"
