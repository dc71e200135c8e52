from dataclasses import replace

import numpy as np
import pytest

from staff.errors import ConfigError, DataError
from staff.selectors import (
    SCORE,
    SELECTORS,
    explain,
    select_ccs,
    select_ifd,
    select_random,
    select_ranked,
    select_staff,
)
from staff.selectors.verification import shrink
from staff.selectors.why import NO_SCORE
from staff.types import REASONS


@pytest.fixture
def scores():
    return np.concatenate([np.linspace(1, 2, 50), np.linspace(9, 10, 50)])


def select(scores, **options):
    target = scores * np.where(scores < 5, 3.0, 1.0)
    options = {"total": 40, "regions": 2, "cut": 0.0} | options
    return select_staff(scores=scores, verify=lambda r: target[r], **options)


def test_a_chosen_row(scores):
    sentences = explain(49, scores=scores, selection=select(scores), name="id-49")
    assert sentences[0] == "id-49 is in the coreset of 40 rows."
    assert sentences[1] == ("Its score on the small model is 2, number 51 of 100 from the hardest.")
    assert sentences[2].startswith(
        "It is in region 1 of 2, easiest first (scores 1 to 5.5), which has 50 rows; 10 of them"
    )
    # Ratios 3 and 1: mean 2, so 1.5 times the mean.
    assert sentences[3] == (
        "The target's scores there are 3 times the small model's (95 % interval 3 to 3); the mean "
        "over the verified regions is 2, so for the target the region is harder than the small "
        "model suggests, and its share 1.50 times the mean."
    )
    assert sentences[4] == "With that ratio, the region's budget is 30 of its 50 rows."
    assert sentences[5] == (
        "Within the region, it is number 1 of 50 from the hardest, inside the budget."
    )
    assert len(sentences) == 6
    easier = (
        "the region is easier than the small model suggests, and its share 0.50 times the mean."
    )
    assert easier in explain(99, scores=scores, selection=select(scores))[3]
    # Keys part equal scores only.
    keys = np.arange(100)[::-1]
    keyed = explain(49, scores=scores, selection=select(scores, keys=keys), keys=keys)
    assert (keyed[1], keyed[-1]) == (sentences[1], sentences[-1])


def test_a_ratio_near_the_mean_may_be_chance(scores):
    coreset = select(scores)
    wide = replace(coreset.verification, interval=np.array([[1.9, 4.1], [0.9, 1.1]]))
    noisy = replace(coreset, verification=wide)
    chance = "which may be chance: the interval contains the mean."
    assert explain(0, scores=scores, selection=noisy)[3].endswith(f"1.50 times the mean, {chance}")
    assert chance not in explain(99, scores=scores, selection=noisy)[3]


def test_a_ratio_like_the_mean_is_neither_harder_nor_easier(scores):
    coreset = select_staff(scores=scores, total=40, verify=lambda r: 2 * scores[r], regions=2)
    for row in (0, 60):
        assert explain(row, scores=scores, selection=coreset)[3].endswith(
            "the mean over the verified regions is 2, so for the target the region is about as hard "
            "as the small model suggests."
        )


def test_a_verified_row_is_told_apart_and_one_alone_has_no_interval(scores):
    coreset = select(scores, verify_per_region=1)
    verified = coreset.verification.rows
    assert len(verified) == 2
    for row in range(100):
        sentences = explain(row, scores=scores, selection=coreset)
        itself = ", including this one" * (row in verified)
        assert sentences[2].endswith(f"has 50 rows; 1 of them was scored on the target{itself}.")
        assert "times the small model's; the mean over" in sentences[3]


def test_a_row_over_budget(scores):
    sentences = explain(0, scores=scores, selection=select(scores))
    assert sentences[0] == "Row 0 is not in the coreset of 40 rows."
    assert sentences[-1] == (
        "Within the region, it is number 50 of 50 from the hardest, outside the budget."
    )


def test_a_cut_row(scores):
    sentences = explain(99, scores=scores, selection=select(scores, cut=0.1))
    assert sentences[-1] == (
        "It is one of the 10 highest scores, which are cut as likely noise or label errors."
    )
    taken = explain(90, scores=scores, selection=select(scores, cut=0.1, total=95))
    assert taken[0] == "Row 90 is in the coreset of 95 rows."
    assert "all 90 other rows were taken and did not fill the coreset of 95" in taken[-1]
    in_pool = explain(0, scores=scores, selection=select(scores, cut=0.1, total=95))
    assert "The coreset is larger than the pool, so all 50 rows" in in_pool[4]


def test_top_up(scores):
    coreset = select(scores, allocation="paper", total=41)
    assert coreset.budget.top_up > 0
    drawn = np.flatnonzero(coreset.reason == REASONS.index("top-up"))[0]
    assert explain(drawn, scores=scores, selection=coreset)[-1].endswith("this row was drawn.")
    left = np.flatnonzero(coreset.reason == REASONS.index("over-budget"))[0]
    assert explain(left, scores=scores, selection=coreset)[-1].endswith("this row was not drawn.")
    shared = replace(coreset, details={**coreset.details, "quota_column": "'source'"})
    assert explain(left, scores=scores, selection=shared)[-1].endswith(
        "from the rest of the pool, for each value of 'source' from its own rows: this row was not "
        "drawn."
    )


def test_a_budget_that_is_shared_says_so(scores):
    coreset = select(scores)
    for more, words in (
        (
            {"quota_column": "'source'"},
            ", which is divided among the values of 'source' in proportion",
        ),
        ({"nested": True}, "; a nested coreset takes only rows of the next larger one."),
    ):
        shared = replace(coreset, details={**coreset.details, **more})
        last = explain(49, scores=scores, selection=shared)[-1]
        assert f"number 1 of 50 from the hardest, inside the budget{words}" in last
        assert words not in explain(49, scores=scores, selection=coreset)[-1]


def test_unverified_and_flagged_regions(scores):
    unverified = explain(0, scores=scores, selection=select(scores, verify_per_region=50))
    assert unverified[3] == "The region is too small to be verified on the target."
    # In stored scores of an earlier run a region may have none, or be too small for this b_v.
    known = select(scores, candidates=scores > 5)
    for b_v, words in (
        (49, "None of its rows has a score on the target, so it is not verified."),
        (50, "The region is too small to be verified on the target."),
        ("auto", "None of its rows has a score on the target, so it is not verified."),
    ):
        stored = replace(known, details={**known.details, "verify_per_region": b_v})
        assert explain(0, scores=scores, selection=stored)[3] == words
    assert unverified[4].startswith("With equal shares, the region's budget is 20")
    flagged = select_staff(
        scores=scores, total=40, regions=2, cut=0.0, verify=lambda rows: np.zeros(len(rows))
    )
    assert "ratio is set to 1" in explain(0, scores=scores, selection=flagged)[3]


def test_random_within_counts_in_its_own_order(scores):
    coreset = select(scores, within="random", seed=5)
    for row in range(50):
        last = explain(row, scores=scores, selection=coreset)[5]
        number = int(last.split("number ")[1].split(" of")[0])
        assert (number <= 30) == (coreset.reason[row] == REASONS.index("budget"))
        assert "in its random order" in last


def test_spread_says_that_clusters_took_turns(scores):
    coreset = select(scores, within="spread", groups=np.arange(100) % 4)
    for row in range(50):
        last = explain(row, scores=scores, selection=coreset)[5]
        assert "random rows were drawn from each cluster" in last
        chosen = coreset.reason[row] == REASONS.index("budget")
        assert (", including this one." in last) == chosen
        assert (", not including this one." in last) != chosen


def test_shrunk_ratios_are_told(scores):
    coreset = select(scores, allocation="shrunk")
    told = replace(coreset, details={**coreset.details, "allocation": "shrunk"})
    sentences = explain(0, scores=scores, selection=told)
    relative = shrink(coreset.verification)
    relative = relative[coreset.regions.of_row[0]] / relative.mean()
    assert f"that ratio counts as {relative:.2f} times the mean" in " ".join(sentences)
    assert len(sentences) == 1 + len(explain(0, scores=scores, selection=coreset))


@pytest.mark.parametrize("within", ["hardest", "random", "spread"])
@pytest.mark.parametrize("cut", [0.0, 0.1])
def test_every_row_has_an_answer_that_agrees(within, cut):
    scores = np.round(np.random.default_rng(0).lognormal(size=150), 1)
    coreset = select_staff(
        scores=scores,
        total=70,
        verify=lambda r: 2 * scores[r],
        within=within,
        groups=np.arange(150) % 7,
        cut=cut,
        regions=9,
    )
    for row in range(150):
        text = " ".join(explain(row, scores=scores, selection=coreset))
        assert ("is in the coreset" in text) == (row in coreset.rows)
        assert "nan" not in text


def told(selection, scores, row, **options):
    return explain(row, scores=scores, selection=selection, **options)[1:]


def test_a_ranking_says_rank_and_score_by_hand():
    scores = np.array([1.0, 3.0, 2.0])
    coreset = replace(select_ranked(scores=scores, total=1), method="loss")
    assert told(coreset, scores, 1, score="loss on the small model") == (
        "Its loss on the small model is 3, number 1 of 3 from the highest.",
        "The method 'loss' chose it.",
    )
    assert told(coreset, scores, 2)[1] == "The method 'loss' did not choose it."
    middle = replace(select_ranked(scores=scores, total=1, take="middle"), method="loss")
    assert told(middle, scores, 1)[1] == (
        "The method 'loss', set to take the middle scores (--take), did not choose it."
    )


def test_rows_set_aside_say_why():
    ratio = np.array([0.5, 2.0, 0.7])
    ones = np.ones(3)
    some, all_ = (select_ifd(scores=ratio, unconditioned=ones, total=t) for t in (1, 3))
    assert told(some, ratio, 1, score="IFD ratio")[1] == (
        "It was left out because its prompt makes its response less likely, a likely mismatch."
    )
    assert told(all_, ratio, 1)[1].endswith("taken because the other rows do not fill the coreset.")


def test_strata_of_ccs_are_not_said_to_be_unverified():
    scores = np.arange(20.0)
    coreset = select_ccs(scores=scores, total=8, strata=2)
    text = " ".join(told(coreset, scores, 3))
    assert "region 1 of 2" in text
    assert "With equal shares, the region's budget is 4 of its 9 rows." in text
    assert "verified" not in text
    assert "in its random order" in text
    assert "one of the 2 highest scores" in told(coreset, scores, 19)[1]


def test_lists_say_so():
    scores = np.arange(4.0)
    coreset = select_ranked(scores=scores, total=2)
    codes = [REASONS.index(r) for r in ("included", "excluded", "over-budget", "budget")]
    listed = replace(coreset, reason=np.array(codes, np.int8))
    assert explain(0, scores=scores, selection=listed) == (
        "Row 0 is in the coreset of 2 rows: it is on the list of rows to include.",
    )
    assert explain(1, scores=scores, selection=listed) == (
        "Row 1 is not in the coreset of 2 rows: it is on the list of rows to exclude.",
    )


def test_other_methods_say_so():
    coreset = select_random(n=5, total=5)
    for scores in (np.arange(5.0), np.full(5, np.nan), []):
        assert explain(0, scores=scores, selection=coreset) == (
            "Row 0 is in the coreset of 5 rows: that was drawn by the method 'random'.",
        )


def test_scores_of_other_rows(scores):
    with pytest.raises(DataError, match=r"scores must be 100, one per row; got shape \(99,\)"):
        explain(0, scores=scores[1:], selection=select(scores))


@pytest.mark.parametrize("row", [-1, 100])
def test_no_such_row(scores, row):
    with pytest.raises(ConfigError, match=f"there is no row {row}: rows go from 0 to 99"):
        explain(row, scores=scores, selection=select(scores))


def test_every_method_without_a_score_says_what_it_chose_by():
    """A row's rank in scores that it did not use would be false."""
    assert set(NO_SCORE) == set(SELECTORS) - set(SCORE)
