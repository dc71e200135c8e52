"""Why a row was or was not chosen, in words."""

from __future__ import annotations  # or help() shows all that an ArrayLike may be

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from staff.errors import ConfigError, DataError
from staff.rng import priorities
from staff.selectors.arguments import as_floats, as_keys, as_scores
from staff.selectors.draw import BUDGET, TOP_UP
from staff.selectors.order import place
from staff.selectors.rounds import not_verified
from staff.selectors.verification import shrink
from staff.types import REASONS, Bools, Budget, Floats, Keys, Regions, Selection, Verification
from staff.words import counted, rows_of

LISTED = {
    "included": "it is on the list of rows to include",
    "excluded": "it is on the list of rows to exclude",
    "rejected": "its score is not a finite number",
}
NO_SCORE = {
    "random": "drawn by the method",
    "k-centre": "chosen from the features by the method",
    "moderate": "chosen from the features by the method",
}
LEFT_OUT = {
    "d2": "left out as one of the highest scores, likely a label error",
    "ifd": "left out because its prompt makes its response less likely, a likely mismatch",
}


def explain(
    row: int,
    *,
    scores: ArrayLike,
    selection: Selection,
    keys: ArrayLike | None = None,
    name: str | None = None,
    score: str = "score on the small model",
) -> tuple[str, ...]:
    """Explain why one row was or was not chosen, one sentence per fact.

    scores: [n], those the method used, and `score`, what to call them; ignored for a method
    without scores and for a row on a list. keys: [n], those the selection was made with.
    selection: with its regions, verification and budget, as `select_staff` returns it,
    and `details` "within", "seed", "verify_per_region", "verify_against" and "allocation", and
    "quota_column" and "nested" if a region's places are shared that way; it may be rebuilt from a
    stored run.
    name: what to call the row, e.g. its id.

    Raises ConfigError for a row outside [0, n), DataError for unusable scores or keys.
    """
    n = len(selection.reason)
    keys = as_keys(keys, n)
    if not 0 <= row < n:
        raise ConfigError(f"there is no row {row}: rows go from 0 to {n - 1}")
    reason = REASONS[selection.reason[row]]
    chosen = reason in ("budget", "top-up", "included")
    subject = name or f"Row {row}"
    verdict = (
        f"{subject} is {'' if chosen else 'not '}in the coreset of {rows_of(len(selection.rows))}"
    )
    if reason in LISTED:
        return (f"{verdict}: {LISTED[reason]}.",)
    if selection.method in NO_SCORE:
        return (f"{verdict}: that was {NO_SCORE[selection.method]} {selection.method!r}.",)
    scores, scored = _known(scores, selection)
    rank = (
        f"Its {score} is {scores[row]:.4g}, number {place(scores, keys, row)} "
        f"of {int(scored.sum())} from the {'hardest' if 'score' in score else 'highest'}."
    )
    regions, verification, budget = selection.regions, selection.verification, selection.budget
    if regions is None or verification is None or budget is None:
        return (f"{verdict}.", rank, _method_sentence(selection, reason))
    i = int(regions.of_row[row])
    if i < 0:
        return (f"{verdict}.", rank, _cut_sentence(selection, regions, chosen))
    ratio = [_ratio_sentence(regions, verification, i, selection.details)]
    if selection.details.get("allocation") == "shrunk":
        ratio += _shrunk_sentence(verification, i)
    return (
        f"{verdict}.",
        rank,
        _region_sentence(regions, verification, i, row),
        *(ratio if selection.method == "staff" else []),
        _budget_sentence(regions, verification, budget, i),
        *_place_sentences(row, scores, keys, selection, regions, i),
    )


def _known(scores: ArrayLike, selection: Selection) -> tuple[Floats, Bools]:
    """The scores, and which rows have one; others rank below all, where they have no effect."""
    scores = as_floats(scores, name="scores")
    if scores.shape != selection.reason.shape:
        raise DataError(
            f"scores must be {len(selection.reason)}, one per row; got shape {scores.shape}"
        )
    unchosen = np.isin(selection.reason, [REASONS.index(name) for name in LISTED])
    scored = ~(unchosen & np.isnan(scores))
    if not scored.all():
        scores = np.where(scored, scores, np.min(scores[scored], initial=np.inf))
    return as_scores(scores), scored


def _method_sentence(selection: Selection, reason: str) -> str:
    """What a method without regions did with the row."""
    if reason in ("cut", "top-up"):
        why = LEFT_OUT.get(selection.method, "left out")
        if reason == "cut":
            return f"It was {why}."
        column = selection.details.get("quota_column")
        others = f"rows with its value of {column}" if column else "rows"
        places = "that value's places" if column else "the coreset"
        return f"It was {why}, but taken because the other {others} do not fill {places}."
    verb = "chose" if reason == "budget" else "did not choose"
    taken = selection.details.get("take")
    if taken in ("middle", "lowest"):
        return (
            f"The method {selection.method!r}, set to take the {taken} scores (--take), {verb} it."
        )
    return f"The method {selection.method!r} {verb} it."


def _cut_sentence(selection: Selection, regions: Regions, chosen: bool) -> str:
    column = selection.details.get("quota_column")
    cut = int(np.count_nonzero(regions.of_row == -1))
    why = f"It is one of the {cut} highest scores, which are cut as likely noise or label errors"
    if chosen and column:
        return (
            f"{why}, but all other rows with its value of {column} were taken and did not fill "
            "that value's places, so the lowest-scored of its cut rows were added."
        )
    if chosen:
        return (
            f"{why}, but all {int(regions.sizes.sum())} other rows were taken and did not fill the "
            f"coreset of {len(selection.rows)}, so the lowest-scored of the cut rows were added."
        )
    return f"{why}."


def _region_sentence(regions: Regions, verification: Verification, i: int, row: int) -> str:
    lower, upper = regions.edges[i]
    words = (
        f"It is in region {i + 1} of {regions.count}, easiest first (scores {lower:.4g} to "
        f"{upper:.4g}), which has {rows_of(int(regions.sizes[i]))}"
    )
    count = int(verification.count[i])
    if count == 0:
        return f"{words}."
    itself = ", including this one" if row in verification.rows else ""
    were = "was" if count == 1 else "were"
    return f"{words}; {count} of them {were} scored on the target{itself}."


def _ratio_sentence(
    regions: Regions, verification: Verification, i: int, details: Mapping[str, Any]
) -> str:
    ratio, per_region = verification.ratio, details.get("verify_per_region")
    before = " before fine-tuning" if details.get("verify_against") == "untuned" else ""
    if np.isnan(ratio[i]):
        if per_region is not None and regions.sizes[i] > not_verified(per_region):
            return "None of its rows has a score on the target, so it is not verified."
        return "The region is too small to be verified on the target."
    if verification.flagged[i]:
        return (
            "The verified scores have no finite, positive sum, so the region's ratio is set to 1."
        )
    low, high = verification.interval[i]
    spread = "" if np.isnan(low) else f" (95 % interval {low:.3g} to {high:.3g})"
    mean = float(np.nanmean(ratio))
    # The ratio's own size says nothing: the two models' norms differ in scale.
    return (
        f"The target's scores there are {ratio[i]:.3g} times the small model's{before}{spread}; "
        f"the mean over the verified regions is {mean:.3g}, so for the target the region is "
        f"{_compared(float(ratio[i]) / mean, chance=bool(low <= mean <= high))}."
    )


def _shrunk_sentence(verification: Verification, i: int) -> list[str]:
    """A verified region's ratio after shrinkage, in words."""
    ratio = shrink(verification)
    if np.isnan(ratio[i]):
        return []
    relative = float(ratio[i]) / float(np.nanmean(ratio))
    return [
        "Shrunk towards the mean by its sampling error, that ratio counts as "
        f"{relative:.2f} times the mean."
    ]


def _compared(relative: float, *, chance: bool) -> str:
    """The region's ratio in words; chance: its interval contains the mean."""
    if abs(relative - 1) < 0.02:
        return "about as hard as the small model suggests"
    word = "harder" if relative > 1 else "easier"
    doubt = ", which may be chance: the interval contains the mean" if chance else ""
    return (
        f"{word} than the small model suggests, and its share {relative:.2f} times the mean{doubt}"
    )


def _budget_sentence(regions: Regions, verification: Verification, budget: Budget, i: int) -> str:
    by = "equal shares" if np.isnan(verification.ratio[i]) else "that ratio"
    m_i, size = int(budget.count[i]), int(regions.sizes[i])
    if budget.total > regions.sizes.sum() == budget.count.sum():  # quotas may leave some of it
        every = f"all {rows_of(size)} of the region"
        return f"The coreset is larger than the pool, so {every} are taken."
    return f"With {by}, the region's budget is {m_i} of its {rows_of(size)}."


def _place_sentences(
    row: int,
    scores: Floats,
    keys: Keys,
    selection: Selection,
    regions: Regions,
    i: int,
) -> tuple[str, ...]:
    members = np.flatnonzero(regions.of_row == i)
    position = int(np.searchsorted(members, row))
    size = len(members)
    drawn_by = selection.details.get("within", "hardest")
    if drawn_by == "hardest":
        order, number = "from the hardest", place(scores[members], keys[members], position)
    else:
        drawn = priorities(keys[members], int(selection.details.get("seed", 0)), "draw")
        order, number = "in its random order", 1 + int(np.count_nonzero(drawn < drawn[position]))
    within = f"Within the region, it is number {number} of {size} {order}"
    shared = _shared(selection.details)
    inside, outside = (f"{within}, {where} the budget{shared}." for where in ("inside", "outside"))
    if drawn_by == "spread":
        turns = (
            "Within the region, random rows were drawn from each cluster of similar rows in turn"
        )
        inside, outside = f"{turns}, including this one.", f"{turns}, not including this one."
    reason = selection.reason[row]
    if reason == BUDGET:
        return (inside,)
    # Without those that went to cut rows, of values with no other rows left.
    drawn_of_pool = int(np.count_nonzero((selection.reason == TOP_UP) & (regions.of_row >= 0)))
    if drawn_of_pool == 0:
        return (outside,)
    places = counted(drawn_of_pool, "place")
    drawn_too = "this row was drawn" if reason == TOP_UP else "this row was not drawn"
    left = f"Full regions and rounding left {places}, drawn at random from the rest of the pool"
    if column := selection.details.get("quota_column"):
        left += f", for each value of {column} from its own rows"
    return outside, f"{left}: {drawn_too}."


def _shared(details: Mapping[str, Any]) -> str:
    """Why a region's places need not go to the first of its rows."""
    if column := details.get("quota_column"):
        return f", which is divided among the values of {column} in proportion to their rows"
    if details.get("nested"):
        return "; a nested coreset takes only rows of the next larger one"
    return ""
