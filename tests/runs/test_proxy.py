"""The verdict on the small model."""

import json

import numpy as np
import pytest

from staff.reports.proxy import SAID
from staff.runs.manifest import plain
from staff.runs.proxy import (
    ADVICE,
    Trend,
    judge,
    more_rows,
    moved,
    proxy_facts,
    told_apart,
    trend_of,
)
from staff.selectors import select_staff, weigh
from staff.selectors.agreement import Correlation
from staff.selectors.rounds import budget_error
from staff.types import Budget, Regions

N = 3000


def facts(target_of, *, untuned=None, tuned=True, stored=False, seed=0, **settings):
    """The manifest's entry, of a small model whose scores are log-normal."""
    random = np.random.default_rng(0)
    small = random.lognormal(sigma=0.6, size=N)
    target = target_of(small, random)
    against = None if untuned is None else untuned(small, random)
    found = select_staff(
        scores=small, total=300, verify=lambda rows: target[rows], regions=30,
        against=None if against is None else lambda rows: against[rows], **settings,
    )  # fmt: skip
    return proxy_facts(
        {"0.1": found}, small=small, target=target, untuned=against, tuned=tuned,
        verify_per_region=settings.get("verify_per_region", 10), seed=seed, stored=stored,
    )  # fmt: skip


def test_a_good_proxy():
    target_of = lambda small, random: 3 * small * random.lognormal(sigma=0.2, size=N)  # noqa: E731
    found = facts(target_of)
    assert (found["verdict"], found["because"], found["advice"]) == ("good", "order", "")
    assert found["interval"][0] < found["spearman"] < found["interval"][1]
    assert found["spearman"] > 0.8
    assert abs(found["ratio_trend"]["slope"]) < 0.2
    assert found["compared"] == "tuned"
    assert json.dumps(plain(found))
    assert facts(target_of, seed=1)["interval"] != found["interval"]  # of the bootstrap


def test_scores_that_have_nothing_to_do_with_each_other():
    found = facts(lambda small, random: random.permutation(small), tuned=False)
    assert (found["verdict"], found["because"]) == ("do not trust", "another order")
    assert "another small model" in found["advice"]
    assert found["compared"] == "untuned"  # it was not fine-tuned


def test_some_order():
    found = facts(lambda small, random: small**0.9 * random.lognormal(sigma=0.85, size=N))
    assert (found["verdict"], found["because"]) == ("weak", "part of the order")
    assert 0 < found["interval"][0] < 0.5 < found["interval"][1] + 0.2
    # Rows spread evenly over the scores agree better than all rows do.
    assert found["spearman"] < found["spearman_of_sample"] - 0.05


def test_one_over_the_small_models_score_is_seen_even_where_the_order_is_the_same():
    # As on tasks that are learnt well: the target is not fine-tuned, its norms hardly differ.
    flat = lambda small, random: 10 + 0.1 * small + 0.001 * random.normal(size=N)  # noqa: E731
    found = facts(flat)
    assert found["spearman"] > 0.9
    assert (found["verdict"], found["because"]) == ("do not trust", "inverse ratios")
    assert "--verify-against untuned" in found["advice"]
    assert found["ratio_trend"]["rank"] < -0.99
    assert found["ratio_trend"]["slope"] == pytest.approx(-1, abs=0.1)
    # A small model that was not fine-tuned cannot be told to compare with what it was before.
    assert facts(flat, tuned=False)["because"] == "order"


def test_compared_with_the_small_model_before_fine_tuning():
    found = facts(
        lambda small, random: 10 + 0.1 * small,
        untuned=lambda small, random: 5 + 0.1 * small * random.lognormal(sigma=0.1, size=N),
    )
    assert (found["verdict"], found["compared"]) == ("good", "untuned")
    # That is the order that counts, and not the one after fine-tuning.
    same, mixed = lambda small, random: small, lambda small, random: random.permutation(small)
    assert facts(same, untuned=mixed)["because"] == "another order"
    # V is about 1 over the scores after fine-tuning, which is no fault of these ratios.
    found = facts(same, untuned=lambda small, random: small**2)
    assert (found["verdict"], found["because"]) == ("good", "order")
    assert found["ratio_trend"]["slope"] == pytest.approx(-1, abs=0.1)


def test_rows_whose_score_is_no_number_are_left_out():
    same = lambda small, random: small.copy()  # noqa: E731
    holed = lambda small, random: np.where(np.arange(N) % 9, small, np.nan)  # noqa: E731
    whole = facts(same, untuned=same)
    assert whole["spearman"] == 1
    for found in (facts(holed, untuned=same), facts(same, untuned=holed)):
        assert 0.8 * whole["rows"] < found["rows"] < whole["rows"]
        assert found["spearman"] == 1


def test_too_few_rows_to_tell():
    found = facts(lambda small, random: small * random.lognormal(size=N), verify_per_region=1)
    assert found["rows"] <= 30
    low, high = found["interval"]
    assert high - low > 0.4
    assert judge(Correlation(0.4, (-0.1, 0.8), 9), inverse=False) == ("weak", "too few rows")
    found = facts(lambda small, random: np.full(N, np.nan))  # no target score is a number
    assert (found["rows"], found["spearman"]) == (0, None)
    assert (found["verdict"], found["because"]) == ("weak", "too few rows")


@pytest.mark.parametrize(
    ("interval", "verdict", "because"),
    [
        ((0.5, 0.9), "good", "order"),
        ((0.49, 0.9), "weak", "perhaps the order"),
        ((0.01, 0.5), "weak", "perhaps the order"),
        ((0.01, 0.49), "weak", "part of the order"),
        ((0.01, 0.3), "weak", "part of the order"),
        ((0, 0.9), "weak", "too few rows"),
        ((0.01, 0.29), "do not trust", "another order"),
        ((-0.9, -0.5), "do not trust", "another order"),
        (None, "weak", "too few rows"),
    ],
)
def test_thresholds(interval, verdict, because):
    assert judge(Correlation(0.5, interval, 100), inverse=False) == (verdict, because)
    assert because in ADVICE
    assert because in SAID


def test_a_verdict_at_the_limit_advises_to_verify_more_rows():
    noisy = lambda small, random: small * random.lognormal(sigma=0.65, size=N)  # noqa: E731
    few = facts(noisy, verify_per_region=10)
    assert few["because"] == "perhaps the order"
    assert "verify more rows (--verify-per-region 20, or auto)" in few["advice"]
    again = facts(noisy, verify_per_region=10, stored=True)
    assert "(in the run that --scores names: --verify-per-region 20, or" in again["advice"]
    assert facts(noisy, verify_per_region=20)["verdict"] == "good"


def test_no_spread():
    assert judge(None, inverse=False) == ("do not trust", "no spread")


def test_a_trend_takes_five_regions_a_rank_and_a_slope():
    assert Trend(regions=5, rank=-0.8, slope=-0.5).inverse
    assert not Trend(regions=4, rank=-1.0, slope=-1.0).inverse
    assert not Trend(regions=9, rank=-0.7, slope=-1.0).inverse
    assert not Trend(regions=9, rank=-1.0, slope=-0.4).inverse


def test_the_slope_by_hand():
    # Target = 3·small^½: V = 3·small^-½, whatever the region.
    small = np.exp(np.linspace(0, 3, 400))
    found = select_staff(
        scores=small, total=40, verify=lambda rows: 3 * small[rows] ** 0.5, regions=20, cut=0.0
    )
    trend = trend_of(found.regions, found.verification, small)
    assert trend.slope == pytest.approx(-0.5, abs=0.01)
    assert trend.rank == -1


def test_a_trend_is_of_three_regions_and_their_means_by_hand():
    # Scores 1, 2 and 4, of three rows, two and one; the target's are 6: V = 6, 3 and 1.5.
    small, target = np.array([1.0, 1, 1, 2, 2, 4]), np.full(6, 6.0)
    pool = Regions(of_row=np.array([0, 0, 0, 1, 1, 2]), edges=np.zeros((3, 2)))

    def trend(rows=6, target=target, scores=small):
        found = weigh(small[:rows], target[:rows], np.arange(rows), pool)
        return trend_of(pool, found, scores)

    assert trend() == (found := Trend(regions=3, rank=-1.0, slope=pytest.approx(-1)))
    assert not found.inverse
    assert trend(rows=5) is None
    assert trend(target=np.array([6, 6, 6, 6, 6, 0])) is None  # whose ratio is none
    # Means that have no logarithm: 0, and a sum that overflows.
    for scores in (small - 1, np.array([1e308] * 5 + [1])):
        assert trend(scores=scores) is None


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ([21, 25], "--verify-per-region 20, or auto"),  # 20 rows are verified now, then 40
        ([10, 21], "--verify-per-region 20, or auto"),  # 10 now, since 10 are not more than 10
        ([15, 21], "fewer --regions, or --verify-per-region auto"),  # 20 now and then
    ],
)
def test_what_gives_more_verified_rows_by_hand(sizes, words):
    assert more_rows(10, np.array(sizes)) == words


def test_the_budget_moved_by_hand():
    budget = Budget(count=np.array([6, 3, 1]), total=10, equal=np.array([4, 3, 3]))
    assert moved(budget) == pytest.approx(0.2)  # two rows of ten
    assert moved(Budget(count=np.array([6, 3, 1]), total=10)) is None
    # Rounding left one to the top-up: shares of what was budgeted.
    assert moved(Budget(np.array([4, 4]), 9, np.array([4, 4]))) == 0
    assert moved(Budget(np.array([6, 2]), 10, np.array([4, 4]))) == 0.25
    assert moved(Budget(np.array([0, 0]), 1, np.array([0, 0]))) == 0


def test_ratios_told_apart():
    small = np.arange(1.0, 101)
    step = np.where(small > 50, 3.0, 1.0)
    found = select_staff(
        scores=small, total=10, verify=lambda rows: step[rows] * small[rows], regions=2, cut=0.0
    )
    assert told_apart(found.verification) == (2, 2)  # 1 and 3, without any error, of a mean of 2
    noisy = np.random.default_rng(0).lognormal(size=100)
    found = select_staff(scores=small, total=10, verify=lambda rows: noisy[rows], regions=2)
    told = proxy_facts(
        {"n10": found}, small=small, target=noisy, untuned=None, tuned=True, verify_per_region=10,
        seed=0,
    )  # fmt: skip
    assert told["ratios_told_apart"]["of"] == 2
    assert told["budget_error"] == budget_error(found.verification, found.regions.sizes) > 0


def test_without_verified_rows_there_is_nothing_to_say():
    small = np.arange(5.0)
    found = select_staff(scores=small, total=2, verify=lambda rows: rows, regions=2)
    nothing = {"small": small, "target": small, "untuned": None, "tuned": True, "seed": 0}
    nothing["verify_per_region"] = 10
    assert proxy_facts({"n2": found}, **nothing) == {}
