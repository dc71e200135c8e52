"""The whole selector: its contract with `verify`, its promises, its refusals."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from staff.errors import ConfigError, DataError
from staff.rng import keys_of_ids
from staff.selectors import (
    PRESETS,
    allocate,
    choose_rows,
    draw,
    select_staff,
    stratify,
    total_of,
    weigh,
)
from staff.types import REASONS

BUDGET, TOP_UP, CUT = (REASONS.index(r) for r in ("budget", "top-up", "cut"))

FAST = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
SCORES = st.one_of(
    st.lists(st.integers(0, 6).map(float), min_size=1, max_size=150),  # ties, constant scores
    st.lists(st.floats(0, 1e6), min_size=1, max_size=80),
    st.lists(st.floats(-1e308, 1e308, allow_subnormal=True), min_size=1, max_size=40),
    st.builds(  # smooth, and heavy tails
        lambda seed, n, sigma: np.random.default_rng(seed).lognormal(sigma=sigma, size=n).tolist(),
        st.integers(0, 2**32),
        st.integers(1, 400),
        st.sampled_from([0.1, 0.5, 2.0, 20.0]),
    ),
)
SETTINGS = st.fixed_dictionaries(
    {
        "regions": st.sampled_from([1, 2, 5, 50, 300]),
        "verify_per_region": st.sampled_from([1, 3, 10]),
        "cut": st.sampled_from([0.0, 0.1, 0.29, 0.5, 0.99]),
        "allocation": st.sampled_from(["shares", "paper", "shrunk"]),
        "stratify_by": st.sampled_from(["width", "count"]),
        "within": st.sampled_from(["hardest", "random"]),
        "seed": st.integers(0, 3),
    }
)


def target_of(scores):
    """Made-up target scores: a function of the score and its row, ratios well spread."""
    factor = np.random.default_rng(7).lognormal(sigma=0.7, size=len(scores))
    with np.errstate(over="ignore"):
        return np.abs(scores) * factor


@FAST
@given(SCORES, SETTINGS, st.data())
def test_budgets_rows_and_reasons_add_up(scores, options, data):
    scores = np.array(scores)
    n, target = len(scores), target_of(scores)
    total = data.draw(st.sampled_from(sorted({1, n, max(1, n // 2), max(1, n // 10)})))
    coreset = select_staff(scores=scores, total=total, verify=lambda r: target[r], **options)

    sizes, count = coreset.regions.sizes, coreset.budget.count
    assert ((count >= 0) & (count <= sizes)).all()
    assert count.sum() + coreset.budget.top_up == total
    assert coreset.budget.top_up >= 0
    assert np.array_equal(coreset.rows, np.unique(coreset.rows))
    assert len(coreset.rows) == total
    assert coreset.rows.min() >= 0
    assert coreset.rows.max() < n
    # The reasons tell the same story.
    reason = coreset.reason
    assert np.array_equal(np.flatnonzero((reason == BUDGET) | (reason == TOP_UP)), coreset.rows)
    of_budget = coreset.regions.of_row[reason == BUDGET]
    assert np.array_equal(np.bincount(of_budget, minlength=len(sizes)), count)
    assert (coreset.regions.of_row[reason == CUT] == -1).all()


@FAST
@given(SCORES, SETTINGS)
def test_no_sample_is_lost_from_the_regions(scores, options):
    scores = np.array(scores)
    regions = stratify(scores, regions=options["regions"], cut=options["cut"])
    cut = regions.of_row < 0
    assert np.count_nonzero(cut) == round(options["cut"] * 100) * len(scores) // 100
    assert regions.sizes.sum() == len(scores) - np.count_nonzero(cut)
    assert (regions.sizes > 0).all()
    assert regions.count <= options["regions"]
    assert (regions.edges[1:, 0] >= regions.edges[:-1, 1]).all()
    lower, upper = regions.edges[regions.of_row[~cut]].T
    assert ((lower <= scores[~cut]) & (scores[~cut] <= upper)).all()
    if cut.any():
        assert scores[cut].min() >= scores[~cut].max()


@FAST
@given(SCORES, SETTINGS, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_change_what_is_chosen(scores, options, random):
    scores = np.array(scores)
    n, target = len(scores), target_of(scores)
    keys = keys_of_ids(str(i) for i in range(n))
    order = np.array(random.sample(range(n), n))
    totals = sorted({1, max(1, n // 3), n})
    one = select_staff(
        scores=scores, total=totals, verify=lambda r: target[r], keys=keys, **options
    )
    other = select_staff(
        scores=scores[order],
        total=totals,
        verify=lambda r: target[order][r],
        keys=keys[order],
        **options,
    )
    for a, b in zip(one, other, strict=True):
        assert a.rows.tolist() == sorted(order[b.rows].tolist())
        assert np.array_equal(a.reason[order], b.reason)
    assert one[0].verification.rows.tolist() == sorted(order[other[0].verification.rows].tolist())


@FAST
@given(
    st.integers(0, 2**32),
    st.integers(1, 300),
    SETTINGS,
    st.lists(st.integers(1, 300), min_size=2, max_size=6),
)
def test_coresets_nest_before_the_top_up(seed, n, options, totals):
    """Fixed ratios: all totals of one call share one verification."""
    scores = np.random.default_rng(seed).lognormal(size=n)
    target = target_of(scores)
    totals = sorted({min(t, n) for t in totals})
    coresets = select_staff(scores=scores, total=totals, verify=lambda r: target[r], **options)
    before = [set(np.flatnonzero(c.reason == BUDGET).tolist()) for c in coresets]
    for fewer, more in pairwise(before):
        assert fewer <= more


@pytest.mark.parametrize("within", ["hardest", "random"])
def test_changing_b_v_does_not_reshuffle_the_draw(within):
    # A target that agrees with the small model makes every ratio 1 and every share equal,
    # verified or not: then b_v has no say in the coreset at all.
    scores = np.random.default_rng(5).lognormal(size=600)
    coresets = [
        select_staff(
            scores=scores,
            total=150,
            verify=lambda rows: scores[rows],
            verify_per_region=b_v,
            within=within,
        )
        for b_v in (1, 4, 10, 30)
    ]
    assert len({len(c.verification.rows) for c in coresets}) == 4
    for coreset in coresets[1:]:
        assert np.array_equal(coreset.reason, coresets[0].reason)


class Counting:
    """A stand-in for the target that remembers what it was asked."""

    def __init__(self, scores):
        self.scores, self.calls = np.asarray(scores), []

    def __call__(self, rows):
        self.calls.append(rows)
        return self.scores[rows]


@pytest.mark.parametrize("total", [40, [10, 40, 200, 400]])
def test_verify_is_called_once_with_at_most_b_v_rows_a_region(total):
    scores = np.random.default_rng(2).lognormal(size=400)
    verify = Counting(2 * scores)
    coreset = select_staff(scores=scores, total=total, verify=verify, verify_per_region=4)
    coreset = coreset if isinstance(total, int) else coreset[0]
    (rows,) = verify.calls
    assert len(rows) <= 4 * 50
    assert np.array_equal(rows, np.unique(rows))
    per_region = np.bincount(coreset.regions.of_row[rows], minlength=coreset.regions.count)
    assert np.array_equal(per_region, np.where(coreset.regions.sizes > 4, 4, 0))
    assert np.array_equal(rows, coreset.verification.rows)


def test_verify_is_not_called_for_nothing():
    verify = Counting(np.arange(5.0))
    coreset = select_staff(scores=np.arange(5.0), total=2, verify=verify)
    assert verify.calls == []
    assert np.isnan(coreset.verification.ratio).all()


@pytest.mark.parametrize(
    "bad",
    [
        {"total": 0},
        {"total": 101},
        {"total": [5, 101]},
        {"total": []},
        {"total": 0.5},
        {"allocation": "fair"},
        {"stratify_by": "colour"},
        {"within": "easiest"},
        {"within": "spread"},  # over which groups?
        {"regions": 0},
        {"verify_per_region": 0},
        {"cut": 1.0},
        {"normalise": "z"},
        {"normalise": "minmax", "candidates": np.ones(100, bool)},
        {"normalise": "minmax", "against": lambda rows: np.ones(len(rows))},
    ],
)
def test_settings_are_refused_before_the_target_is_asked(bad):
    verify = Counting(np.arange(100.0))
    options = {"total": 10, "regions": 5} | bad
    with pytest.raises(ConfigError):
        select_staff(scores=np.arange(100.0), verify=verify, **options)
    assert verify.calls == []


def test_non_finite_scores_are_refused_before_the_target_is_asked():
    verify = Counting(np.arange(100.0))
    scores = np.arange(100.0)
    scores[7] = np.nan
    with pytest.raises(DataError, match=r"1 of 100 scores are not finite \(row 7 is nan\)"):
        select_staff(scores=scores, total=1, verify=verify)
    assert verify.calls == []


@pytest.mark.parametrize("b_v", [10, "auto"])
@pytest.mark.parametrize("wrong", [np.ones(100), np.ones((20, 1)), 1.0, None])
def test_verify_that_answers_for_other_rows(b_v, wrong):
    scores = np.arange(100.0)
    with pytest.raises(DataError, match="one score per row"):
        select_staff(
            scores=scores, total=1, regions=2, verify_per_region=b_v, verify=lambda rows: wrong
        )


def test_a_target_that_returns_nan_is_flagged_not_fatal():
    scores = np.arange(1.0, 101.0)
    coreset = select_staff(
        scores=scores, total=20, regions=2, verify=lambda rows: np.full(len(rows), np.nan)
    )
    assert coreset.verification.flagged.all()
    assert coreset.verification.ratio.tolist() == [1, 1]
    assert len(coreset.rows) == 20


def test_what_the_target_finds_hard_gets_more():
    # Two regions of 50; the target finds the lower three times as hard as the small model
    # says, relative to the upper: shares 3 : 1 of 40, the lower (equal size) first.
    scores = np.concatenate([np.linspace(1, 2, 50), np.linspace(9, 10, 50)])
    target = scores * np.where(scores < 5, 3.0, 1.0)
    coreset = select_staff(scores=scores, total=40, verify=lambda r: target[r], regions=2, cut=0.0)
    assert coreset.budget.count.tolist() == [30, 10]
    assert coreset.rows.tolist() == [*range(20, 50), *range(90, 100)]


def test_one_verification_serves_all_totals():
    scores = np.random.default_rng(3).lognormal(size=300)
    target = target_of(scores)
    together = select_staff(scores=scores, total=[30, 60], verify=lambda r: target[r])
    for total, coreset in zip([30, 60], together, strict=True):
        alone = select_staff(scores=scores, total=total, verify=lambda r: target[r])
        assert np.array_equal(alone.reason, coreset.reason)
    assert together[0].verification is together[1].verification


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
def test_shares_ignore_the_scale_of_either_model(scale):
    # A power of two scales without rounding, so the answer is the same to the row.
    scores = np.random.default_rng(4).lognormal(size=500)
    target = target_of(scores)
    plain = select_staff(scores=scores, total=100, verify=lambda r: target[r])
    target_scaled = select_staff(scores=scores, total=100, verify=lambda r: scale * target[r])
    small_scaled = select_staff(scores=scale * scores, total=100, verify=lambda r: target[r])
    assert np.array_equal(plain.reason, target_scaled.reason)
    assert np.array_equal(plain.reason, small_scaled.reason)


def test_minmax_scores_everything_on_the_target():
    scores = np.random.default_rng(6).lognormal(size=200)
    verify = Counting(3 * scores + 1)  # the same after min-max, so every ratio is 1
    coreset = select_staff(scores=scores, total=50, verify=verify, normalise="minmax", regions=5)
    (rows,) = verify.calls
    assert np.array_equal(rows, np.arange(200))
    ratio = coreset.verification.ratio
    np.testing.assert_allclose(ratio[~np.isnan(ratio)], 1.0)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_are_settings_of_the_selector(preset):
    scores = np.random.default_rng(8).lognormal(size=200)
    coreset = select_staff(scores=scores, total=50, verify=lambda r: scores[r], **PRESETS[preset])
    assert len(coreset.rows) == 50
    assert coreset.details["within"] == PRESETS[preset]["within"]


def test_streams_are_separate():
    """What is verified tells nothing of what is drawn: about m/N of one is in the other."""
    scores = np.linspace(1, 2, 10_000)
    coreset = select_staff(
        scores=scores,
        total=5000,
        verify=lambda r: scores[r],
        regions=1,
        verify_per_region=2000,
        within="random",
        cut=0.0,
    )
    both = np.intersect1d(coreset.rows, coreset.verification.rows)
    assert 880 < len(both) < 1120  # hypergeometric: mean 1000, standard deviation 20


@pytest.mark.parametrize(
    ("keep", "n", "total"),
    [
        (0.29, 100, 29),  # 28.999… in binary
        (0.1, 30, 3),  # 3.0000000000000004 / 2.99…: the decimal says 3
        (0.57, 100, 57),
        (1, 7, 7),
        (1.0, 7, 7),
        ("0.1", 4017, 401),
        (1e-3, 1000, 1),
        (np.float64(0.29), 100, 29),
        (0.7, 10**17, 7 * 10**16),
    ],
)
def test_total_of(keep, n, total):
    assert total_of(keep, n) == total


@pytest.mark.parametrize("keep", [0, -0.1, 1.0000001, 10, "ten", float("nan"), float("inf")])
def test_keep_outside_its_range(keep):
    with pytest.raises(ConfigError, match="keep must be above 0 and at most 1"):
        total_of(keep, 100)


def test_keep_of_less_than_one_row():
    with pytest.raises(ConfigError, match=r"keep 0.001 of 100 rows is less than one row"):
        total_of(0.001, 100)


def test_a_million_rows():
    n = 1_000_000
    scores = np.random.default_rng(0).lognormal(size=n)
    small, large = select_staff(scores=scores, total=[n // 10, n // 2], verify=lambda r: scores[r])
    highest = np.partition(scores, n - n // 10)[n - n // 10]
    for coreset, rows in ((small, n // 10), (large, n // 2)):
        assert len(np.unique(coreset.rows)) == rows
        assert scores[coreset.rows].max() < highest  # those are cut as noise


@pytest.mark.parametrize("by", ["width", "count"])
def test_the_stages_alone_make_the_same_coreset(by):
    scores = np.random.default_rng(9).lognormal(size=300)
    target = target_of(scores)
    pool = stratify(scores, by=by)
    rows = choose_rows(pool)
    budget = allocate(pool, weigh(scores[rows], target[rows], rows, pool), total=60)
    by_hand = draw(scores, pool, budget)
    whole = select_staff(scores=scores, total=60, verify=lambda r: target[r], stratify_by=by)
    assert np.array_equal(by_hand.reason, whole.reason)
    assert np.array_equal(by_hand.regions.edges, whole.regions.edges)
