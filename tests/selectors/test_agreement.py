import numpy as np
import pytest

from staff.selectors import choose_rows, stratify
from staff.selectors.agreement import (
    _resampled,
    rank_correlation,
    ranks,
    stratified_correlation,
)


def test_by_hand():
    # Ranks 1 2 3 4 5 against 2 1 4 3 5: squared differences 1 1 1 1 0, so
    # 1 - 6·4 / (5·24) = 0.8; Fisher: tanh(1.0986 ± 1.9600·sqrt(1.32 / 2)).
    found = rank_correlation(np.array([1.0, 2, 30, 40, 50]), np.array([0.2, 0.1, 0.4, 0.3, 9]))
    assert found.value == pytest.approx(0.8)
    assert found.interval == pytest.approx((-0.4571, 0.9908), abs=1e-4)
    assert found.pairs == 5
    # Of four, 2 1 3 4: 1 - 6·2 / (4·15) = 0.8, too; tanh(1.0986 ± 1.9600·sqrt(1.32 / 1)).
    found = rank_correlation(np.arange(4.0), np.array([2.0, 1, 3, 4]))
    assert found.interval == pytest.approx((-0.8188, 0.9975), abs=1e-4)


def test_ties_share_their_rank():
    # Ranks 1.5 1.5 3 against 1 2 3: the covariance of deviations (-.5 -.5 1) and (-1 0 1) is
    # 1.5, the squares sum to 1.5 and 2: 1.5 / sqrt(3).
    assert ranks(np.array([4.0, 4, 8])).tolist() == [1.5, 1.5, 3]
    found = rank_correlation(np.array([4.0, 4, 8]), np.array([1.0, 2, 3]))
    assert found.value == pytest.approx(1.5 / np.sqrt(3))
    assert found.interval is None


def test_no_correlation_without_spread():
    assert rank_correlation(np.array([1.0, 1]), np.array([1.0, 2])) is None
    assert rank_correlation(np.array([1.0]), np.array([1.0])) is None
    perfect = rank_correlation(np.arange(9.0), -np.arange(9.0))
    assert (perfect.value, perfect.interval) == (-1.0, None)


def test_weighted_to_all_rows_by_hand():
    # Strata of 1 and 3 rows of which one and two were drawn: weights 1, 1.5, 1.5.
    # Ranks: 0.5, 1.75, 3.25 of (1, 2, 3); 2, 0.75, 3.25 of (2, 1, 3).
    # Weighted means 2 and 2; deviations (-1.5, -.25, 1.25) and (0, -1.25, 1.25).
    # Σw·dx·dy = 0 + 1.5·0.3125 + 1.5·1.5625 = 2.8125; squares 4.6875 and 4.6875: 0.6.
    found = stratified_correlation(
        np.array([1.0, 2, 3]), np.array([2.0, 1, 3]), np.array([0, 1, 1]), np.array([1, 3])
    )
    assert found.value == pytest.approx(0.6)
    assert (found.interval, found.pairs) == (None, 3)


def test_four_rows_in_one_order_are_chance():
    four = np.arange(4.0)
    for stratum in (np.zeros(4, int), np.arange(4) // 2):
        found = stratified_correlation(four, four, stratum, np.full(2, 100))
        assert (found.value, found.interval, found.pairs) == (1.0, None, 4)
    mixed = np.array([1.0, 0, 2, 4, 3])
    assert stratified_correlation(np.arange(5.0), mixed, np.zeros(5, int), np.array([9])).interval


def test_with_every_row_drawn_it_is_spearmans():
    random = np.random.default_rng(0)
    a = np.round(random.normal(size=200), 1)  # with ties
    b = a + random.normal(size=200)
    stratum = np.arange(200) % 4
    found = stratified_correlation(a, b, stratum, np.full(4, 50))
    assert found.value == pytest.approx(rank_correlation(a, b).value)


def test_the_sample_of_strata_gives_the_correlation_over_all_rows():
    # Spread evenly over the score the sample's own correlation is another one: 0.49 against 0.41.
    random = np.random.default_rng(1)
    x = random.normal(size=4000)
    small, target = np.exp(0.6 * x), np.exp(0.3 * x + 0.5 * random.normal(size=4000))
    pool = stratify(small)
    values, plain, covered = [], [], 0
    for seed in range(20):
        rows = choose_rows(pool, seed=seed)
        truth = np.isin(pool.of_row, np.unique(pool.of_row[rows]))
        exact = rank_correlation(small[truth], target[truth]).value
        found = stratified_correlation(
            small[rows], target[rows], pool.of_row[rows], pool.sizes, seed=seed
        )
        values.append(found.value - exact)
        plain.append(rank_correlation(small[rows], target[rows]).value - exact)
        covered += found.interval[0] <= exact <= found.interval[1]
    assert abs(np.mean(values)) < 0.015
    assert np.mean(plain) > 0.05
    assert covered >= 17


def test_a_resample_of_a_stratum_stands_for_as_many_rows_by_hand():
    # Of 10 rows 9 are drawn and count 10/9 times, of 4 rows 3 and 4/3 times.
    parts = [*_resampled(np.array([10, 4]), np.random.default_rng(0), at_once=600)]
    assert [len(part) for part in parts] == [600, 400]
    for columns, n in ((slice(10), 10), (slice(10, None), 4)):
        drawn = np.concatenate(parts)[:, columns] * (n - 1) / n
        np.testing.assert_allclose(drawn, np.round(drawn), atol=1e-9)
        np.testing.assert_allclose(drawn.sum(axis=1), n - 1)
        assert np.var(drawn * n / (n - 1)) == pytest.approx(1, abs=0.06)  # of n of n: 1 - 1/n


def test_the_order_of_rows_does_not_matter_and_the_seed_does():
    random = np.random.default_rng(2)
    a, b, stratum = random.normal(size=60), random.normal(size=60), np.repeat(np.arange(6), 10)
    sizes, order = np.arange(100, 160, 10), random.permutation(60)
    one = stratified_correlation(a, b, stratum, sizes)
    assert one == stratified_correlation(a[order], b[order], stratum[order], sizes)
    assert one.interval != stratified_correlation(a, b, stratum, sizes, seed=1).interval


def test_no_weighted_correlation_without_spread():
    at, sizes = np.zeros(5, int), np.array([9])
    assert stratified_correlation(np.ones(5), np.arange(5.0), at, sizes) is None
    assert stratified_correlation(np.arange(5.0), np.ones(5), at, sizes) is None
    assert stratified_correlation(np.ones(1), np.ones(1), at[:1], sizes) is None
