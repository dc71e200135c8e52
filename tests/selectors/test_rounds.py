"""Verification in rounds: nested, deterministic, as many rows as stable budgets take."""

import math
from itertools import pairwise

import numpy as np
import pytest

from staff.errors import ConfigError
from staff.rng import keys_of_ids
from staff.selectors import choose_rows, select_staff, stratify, weigh
from staff.selectors.rounds import (
    AIM,
    START,
    budget_error,
    fewer_regions,
    grown,
    not_verified,
    verify_in_rounds,
)
from staff.selectors.verification import student_95
from staff.types import Verification

N = 4000


def scored(noise, seed=0):
    """(small, target) scores: the target's grow with the small model's square root, and noise."""
    random = np.random.default_rng(seed)
    small = random.lognormal(sigma=0.5, size=N)
    return small, small**0.5 * random.lognormal(sigma=noise, size=N)


def in_rounds(noise, **settings):
    """(selection, rows of each call, small, target)."""
    small, target = scored(noise)
    calls = []

    def verify(rows):
        calls.append(rows)
        return target[rows]

    found = select_staff(
        scores=small, total=400, verify=verify, verify_per_region="auto", **settings
    )
    return found, calls, small, target


def verification(ratio, error, count):
    """These ratios with these relative standard errors, `count` rows each."""
    ratio, error = np.array(ratio), np.array(error)
    reach = ratio * error * np.array([student_95(b - 1) for b in count])
    return Verification(
        rows=np.arange(sum(count)),
        ratio=ratio,
        count=np.array(count),
        interval=np.stack([ratio - reach, ratio + reach], axis=1),
        flagged=np.zeros(len(ratio), bool),
    )


def test_the_error_by_hand():
    # Shares 1/4 and 3/4, s = 0.1 and 0.2; Σ p²s² = 0.000625 + 0.0225 = 0.023125.
    # Var p_1 = 1/16·(0.5·0.01 + 0.023125) = 0.0017578, Var p_2 = 9/16·(-0.5·0.04 + 0.023125) the
    # same: two shares move together. ½·√(2/π)·2·√0.0017578 = 0.033452.
    found = budget_error(verification([1.0, 3.0], [0.1, 0.2], [10, 10]), np.array([100, 100]))
    assert found == pytest.approx(math.sqrt(2 / math.pi) * math.sqrt(0.00175781), rel=1e-5)


def test_one_region_cannot_be_wrong():
    assert budget_error(verification([2.0], [0.5], [10]), np.array([100])) == 0


def test_the_error_is_the_expected_total_variation():
    # Simulated: how far shares from 10 rows a region are from those of all rows.
    small, target = scored(0.4)
    pool = stratify(small, regions=20)
    rows = np.flatnonzero(pool.of_row >= 0)
    exact = weigh(small[rows], target[rows], rows, pool).ratio
    told, apart = [], []
    for seed in range(100):
        drawn = choose_rows(pool, seed=seed)
        found = weigh(small[drawn], target[drawn], drawn, pool)
        at = ~np.isnan(found.ratio)
        shares = [ratio[at] / ratio[at].sum() for ratio in (found.ratio, exact)]
        apart.append(np.abs(shares[0] - shares[1]).sum() / 2)
        told.append(budget_error(found, pool.sizes))
    assert np.mean(told) == pytest.approx(np.mean(apart), rel=0.15)


@pytest.mark.parametrize("noise", [0.3, 0.6])
def test_it_stops_when_the_budgets_are_stable_and_not_before(noise):
    found, calls, _, _ = in_rounds(noise)
    *before, last = found.verification.rounds
    assert last.error <= 0.05
    assert all(one.error > 0.05 for one in before)
    assert [one.rows for one in found.verification.rounds] == np.cumsum(
        [len(c) for c in calls]
    ).tolist()
    assert np.array_equal(np.sort(np.concatenate(calls)), found.verification.rows)
    assert budget_error(found.verification, found.regions.sizes) == last.error


def test_noisier_scores_and_a_lower_tolerance_take_more():
    spent = [
        in_rounds(noise, verify_tolerance=tolerance)[0].verification.rounds[-1].rows
        for noise, tolerance in ((0.2, 0.05), (0.6, 0.05), (0.6, 0.03))
    ]
    assert spent == sorted(set(spent))
    assert spent[0] >= 5 * 40


def test_a_round_adds_to_those_before_by_the_same_priorities():
    found, calls, _, _ = in_rounds(0.6)
    assert len(calls) > 1
    for one, other in pairwise(calls):
        assert not set(one.tolist()) & set(other.tolist())
        assert np.array_equal(other, np.sort(other))
    pool, count = found.regions, found.verification.count
    of_row = pool.of_row[np.concatenate(calls)]
    by_round = [np.bincount(pool.of_row[c], minlength=pool.count) for c in calls]
    assert np.array_equal(np.sum(by_round, axis=0), count)
    assert (by_round[1] <= by_round[0]).all()  # no region more than doubles
    assert set(choose_rows(pool, per_region=START).tolist()) <= set(calls[0].tolist())
    # What a region has is what a fixed number draws of it.
    for b in np.unique(count[count > 0]):
        same = np.flatnonzero(count == b)
        fixed = choose_rows(pool, per_region=np.where(count == b, b, 0))
        assert set(fixed.tolist()) == set(np.concatenate(calls)[np.isin(of_row, same)].tolist())


def test_another_seed_verifies_other_rows():
    one, other = (in_rounds(0.3, seed=seed)[1][0] for seed in (0, 1))
    assert len(one) == len(other)
    assert not np.array_equal(one, other)


def test_the_cap_is_kept_and_told():
    found, calls, _, _ = in_rounds(0.6, verify_cap=300, verify_tolerance=0.01)
    assert sum(map(len, calls)) == found.verification.rounds[-1].rows <= 300
    assert found.verification.rounds[-1].rows > 280
    assert found.verification.rounds[-1].error > 0.01


def test_every_row_at_last():
    small, target = scored(0.6)
    few = slice(0, 300)
    found = select_staff(
        scores=small[few], total=30, verify=lambda rows: target[few][rows], regions=4,
        verify_per_region="auto", verify_tolerance=1e-9, verify_cap=10**6,
    )  # fmt: skip
    large = found.regions.sizes > START
    assert np.array_equal(found.verification.count, np.where(large, found.regions.sizes, 0))
    assert found.verification.rounds[-1].error == 0


def test_the_order_of_the_input_does_not_matter():
    small, target = scored(0.6)
    keys, order = keys_of_ids(map(str, range(N))), np.random.default_rng(3).permutation(N)
    settings = {"total": 400, "verify_per_region": "auto"}
    one = select_staff(scores=small, verify=lambda r: target[r], keys=keys, **settings)
    other = select_staff(
        scores=small[order], verify=lambda r: target[order][r], keys=keys[order], **settings
    )
    assert one.verification.rounds == other.verification.rounds
    assert one.rows.tolist() == sorted(order[other.rows].tolist())


def test_scores_that_are_there_all_serve():
    small, target = scored(0.6)
    first, calls, _, _ = in_rounds(0.6)
    known = np.zeros(N, bool)
    known[np.concatenate(calls)] = True
    again = select_staff(
        scores=small, total=400, verify=lambda rows: target[rows], candidates=known,
        verify_per_region="auto", verify_tolerance=0.5, verify_cap=5,
    )  # fmt: skip
    assert np.array_equal(again.verification.rows, first.verification.rows)
    assert np.array_equal(again.rows, first.rows)
    assert len(again.verification.rounds) == 1


def test_small_model_before_fine_tuning_is_asked_for_the_same_rows():
    small, target = scored(0.6)
    asked = {"target": [], "untuned": []}

    def ask(name, scores):
        def answer(rows):
            asked[name].append(rows.tolist())
            return scores[rows]

        return answer

    select_staff(
        scores=small, total=400, verify=ask("target", target), against=ask("untuned", target**2),
        verify_per_region="auto",
    )  # fmt: skip
    assert len(asked["target"]) > 1
    assert asked["target"] == asked["untuned"]


def test_regions_too_small_are_not_verified():
    small = np.array([1.0] * 5 + [9.0] * 5)
    asked = []
    found = select_staff(
        scores=small, total=4, verify=asked.append, regions=2, cut=0.0, verify_per_region="auto"
    )
    assert asked == []
    assert found.verification.rounds == ()
    assert np.isnan(found.verification.ratio).all()
    assert (not_verified("auto"), not_verified(7)) == (START, 7)
    # Nor are they where scores of all rows are there.
    small = np.array([1.0] * 5 + [9.0] * 20)
    found = select_staff(
        scores=small, total=4, verify=lambda rows: small[rows], candidates=np.ones(25, bool),
        regions=2, cut=0.0, verify_per_region="auto",
    )  # fmt: skip
    assert found.verification.count.tolist() == [0, 20]
    # Regions of 20 rows, and never fewer than two.
    assert [fewer_regions(rows, 10) for rows in (1019, 59, 30)] == [50, 2, 2]


def test_rows_are_wanted_where_they_lower_the_error_most():
    # Equal shares, errors in the ratio 1:3 and so of rows in the ratio 1:2.08 = 3^⅔ at best;
    # from 50 rows each the one kind stays, and the other gets what the tolerance asks for.
    found = verification([1.0] * 40, [0.05] * 20 + [0.15] * 20, [50] * 40)
    sizes = np.array([10**6] * 40)
    error = budget_error(found, sizes)
    more = grown(found, sizes, tolerance=error / AIM / 1.1, cap=10**6)
    assert more[:20].tolist() == [50] * 20
    assert 50 < more[20] < 75
    # Σ s over regions: 20·0.05 + 20·0.15·√(50/b) is to be 4/1.1, so b = 64.7, about.
    assert more[20] == pytest.approx(64.7, abs=1.5)
    assert grown(found, sizes, tolerance=error / AIM / 4, cap=10**6).tolist() == [100] * 40
    assert grown(found, sizes, tolerance=error / AIM / 4, cap=4000).tolist() == [100] * 40
    assert grown(found, sizes, tolerance=1.0, cap=10**6).tolist() == [50] * 40
    capped = grown(found, sizes, tolerance=error / AIM / 1.1, cap=2100)
    assert (capped[:20] == 50).all()
    assert 2080 <= capped.sum() <= 2100


def test_rows_go_like_the_spread_to_the_power_of_two_thirds_by_hand():
    # Of σ = 0.5 and 4, 1:8, regions have 25 and 100 rows, 1:4 = 8^⅔: at best already. An error
    # smaller by 1.2 then takes 1.44 times as many of both.
    found = verification([1.0] * 40, [0.5 / 5] * 20 + [4 / 10] * 20, [25] * 20 + [100] * 20)
    sizes = np.array([10**6] * 40)
    tolerance = budget_error(found, sizes) / AIM / 1.2
    more = grown(found, sizes, tolerance=tolerance, cap=10**6)
    np.testing.assert_allclose(more, [36] * 20 + [144] * 20, atol=1)


def test_flagged_and_lone_regions():
    # A region whose sums are no ratio asks for nothing; one of one row is taken for the worst.
    found = verification([1.0, 1.0, 1.0], [0.1, 0.1, 0.1], [10, 10, 10])
    found.interval[1:] = np.nan
    found.flagged[1] = True
    sizes = np.array([1000] * 3)
    more = grown(found, sizes, tolerance=0.001, cap=10**6)
    assert more.tolist() == [20, 10, 20]
    lone, worst = (verification([1.0] * 3, [0.1, 0.3, 0.3], [10] * 3) for _ in range(2))
    lone.interval[2] = np.nan
    assert budget_error(lone, sizes) == pytest.approx(budget_error(worst, sizes))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"verify_tolerance": 0.0}, "verify tolerance must be above 0"),
        ({"verify_tolerance": 1.0}, "below 1"),
        ({"verify_cap": 0}, "verify cap must be at least 1"),
        ({"verify_cap": 100}, r"verify cap 100: the first 5 rows of each of \d+ regions are"),
        ({"verify_per_region": "all"}, "unknown verify per region 'all'"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    small, _ = scored(0.3)
    with pytest.raises(ConfigError, match=words):
        select_staff(
            scores=small, total=400, verify=lambda rows: pytest.fail("asked"),
            **{"verify_per_region": "auto", **settings},
        )  # fmt: skip


def test_unscaled_extremes_do_not_overflow():
    small = np.linspace(1e-300, 1e-299, 200)
    pool = stratify(small, regions=4, cut=0.0)
    found = verify_in_rounds(pool, lambda rows: (small[rows], small[rows] * 1e290))
    assert np.isfinite(found.rounds[-1].error)
