import numpy as np
import pytest

from staff.errors import ConfigError, DataError
from staff.training.statistics import mean_interval, paired_interval, share_interval


def test_two_values_by_hand():
    # Resampling {0, 1} twice gives means 0, 1/2, 1 with odds 1 : 2 : 1. The middle half of
    # that distribution is 1/2 alone; its middle 95 % reaches both ends.
    assert mean_interval([0, 1], level=0.4) == (0.5, 0.5, 0.5)
    assert mean_interval([0, 1]) == (0.5, 0.0, 1.0)


def test_agrees_with_the_normal_interval_for_many_items():
    values = np.random.default_rng(0).normal(3, 2, 2_000)
    mean, low, high = mean_interval(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert mean == pytest.approx(values.mean())
    assert low == pytest.approx(mean - half, abs=0.1 * half)
    assert high == pytest.approx(mean + half, abs=0.1 * half)


def test_covers_the_truth_about_as_often_as_it_says():
    draw = np.random.default_rng(1)
    trials, n = 300, 60
    hits = 0
    for trial in range(trials):
        items = draw.normal(0, 1, n)
        a, b = items + draw.normal(0.3, 0.5, n), items + draw.normal(0, 0.5, n)
        _, low, high = paired_interval(a, b, level=0.9, resamples=500, seed=trial)
        hits += low <= 0.3 <= high
    assert 0.84 <= hits / trials <= 0.95  # three standard errors about 0.9


def test_pairing_removes_what_items_share():
    draw = np.random.default_rng(2)
    items = draw.normal(0, 10, 100)
    a, b = items + 0.5 + draw.normal(0, 0.5, 100), items
    paired = paired_interval(a, b)
    alone = mean_interval(a)
    assert paired.low > 0
    assert paired.high - paired.low < (alone.high - alone.low) / 10
    assert paired_interval(b, a).mean == pytest.approx(-paired.mean)


def test_a_share_of_nothing_is_not_surely_nothing():
    # Wilson by hand: 0 of 10 is up to z²/(10 + z²) = 3.8415/13.8415.
    assert share_interval([0] * 10) == pytest.approx((0, 0, 0.27753), abs=1e-5)
    assert share_interval([1] * 10) == pytest.approx((1, 0.72247, 1), abs=1e-5)
    # Where rounding would leave an end beside 0 or 1.
    assert share_interval([0] * 10).low == 0
    assert [share_interval([1] * n).high for n in (9, 13)] == [1, 1]
    draw = np.random.default_rng(4)
    for rate in (0.003, 0.01, 0.1, 0.5):
        found = [share_interval(draw.random(200) < rate) for _ in range(400)]
        assert np.mean([low <= rate <= high for _, low, high in found]) > 0.91
    with pytest.raises(DataError, match="list of test items"):
        share_interval([])


def test_one_seed_one_answer_and_no_global_state():
    values = np.arange(50.0) ** 2
    np.random.seed(0)
    first = mean_interval(values, resamples=100, seed=3)
    np.random.seed(1)
    assert mean_interval(values, resamples=100, seed=3) == first
    assert mean_interval(values, resamples=100, seed=4) != first


def test_errors():
    with pytest.raises(DataError, match="same items"):
        paired_interval([1, 2], [1])
    with pytest.raises(DataError, match="list of test items"):
        mean_interval([])
    for interval in (mean_interval, share_interval):
        with pytest.raises(DataError, match="1 of 2 values are not finite"):
            interval([1, np.nan])
    with pytest.raises(ConfigError, match="between 0 and 1"):
        mean_interval([1, 2], level=95)
