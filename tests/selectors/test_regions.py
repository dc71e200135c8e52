import numpy as np
import pytest

from staff.errors import ConfigError, DataError
from staff.selectors import stratify
from staff.selectors.regions import members


def test_cut_and_equal_width_by_hand():
    # n = 10, cut 0.2: ⌊2⌋ highest, 8 and 9, go. Pool 0..7, K = 5: width 7/5 = 1.4, upper
    # edges 1.4, 2.8, 4.2, 5.6, 7 -> {0,1} {2} {3,4} {5} {6,7}.
    regions = stratify(np.arange(10.0), regions=5, cut=0.2)
    assert regions.of_row.tolist() == [0, 0, 1, 2, 2, 3, 4, 4, -1, -1]
    np.testing.assert_allclose(regions.edges[:, 1], [1.4, 2.8, 4.2, 5.6, 7])
    assert regions.sizes.tolist() == [2, 1, 2, 1, 2]


def test_upper_edges_are_inclusive_by_hand():
    # Edges 0, 1, 2, 3, 4: a score on an edge belongs to the region below it, the lowest
    # score to the first region.
    assert stratify([0, 1, 2, 3, 4], regions=4, cut=0.0).of_row.tolist() == [0, 0, 1, 2, 3]


def test_empty_regions_vanish_by_hand():
    # Width 2: (0,2] (2,4] (4,6] (6,8] (8,10]; only the first and the last hold rows.
    regions = stratify([0, 1, 10], regions=5, cut=0.0)
    assert regions.of_row.tolist() == [0, 0, 1]
    assert regions.edges.tolist() == [[0, 2], [8, 10]]


def test_ties_at_the_cut_go_by_smaller_key():
    # ⌊0.5·4⌋ = 2 of the three 5s are cut: those with the smaller keys, rows 3 and 1.
    assert (stratify([5, 5, 1, 5], cut=0.5, keys=[9, 4, 0, 2]).of_row < 0).tolist() == [
        False,
        True,
        False,
        True,
    ]
    # Without keys, positions: rows 0 and 1.
    assert np.flatnonzero(stratify([5, 5, 1, 5], cut=0.5).of_row < 0).tolist() == [0, 1]


def test_cut_is_read_as_a_decimal():
    # 0.29·100 is 28.999… in binary and 29 as written.
    assert np.count_nonzero(stratify(np.arange(100.0), cut=0.29).of_row < 0) == 29


@pytest.mark.parametrize("value", [0.0, 1e-320, 3.5, 1e308])
def test_constant_scores_make_one_region(value):
    regions = stratify(np.full(7, value), cut=0.0)
    assert regions.of_row.tolist() == [0] * 7
    assert regions.edges.tolist() == [[value, value]]


def test_the_pools_highest_score_is_never_lost_to_rounding():
    # lower + K·((upper - lower) / K) falls short of upper for many of these.
    rng = np.random.default_rng(0)
    short = 0
    for _ in range(500):
        scores = rng.lognormal(size=30)
        lower, upper = scores.min(), scores.max()
        short += lower + 50 * ((upper - lower) / 50) < upper
        assert (stratify(scores, cut=0.0).of_row >= 0).all()
    assert short > 10


def test_range_wider_than_float64():
    regions = stratify([-1.7e308, 0.0, 1.7e308], regions=2, cut=0.0)
    assert regions.of_row.tolist() == [0, 0, 1]
    assert regions.edges.tolist() == [[-1.7e308, 0], [0, 1.7e308]]


def test_range_of_one_unit_in_the_last_place():
    scores = np.array([1.0, np.nextafter(1.0, 2.0)])
    assert (stratify(scores, regions=50, cut=0.0).of_row >= 0).all()


def test_members_partition_the_pool():
    scores = np.random.default_rng(1).lognormal(size=300)
    regions = stratify(scores)
    groups = members(regions)
    assert [len(g) for g in groups] == regions.sizes.tolist()
    for i, group in enumerate(groups):
        assert np.array_equal(group, np.flatnonzero(regions.of_row == i))


def test_more_regions_than_16_bits_number():
    scores = np.arange(40_000.0)
    regions = stratify(scores, regions=40_000, cut=0.0)
    assert regions.count > np.iinfo(np.int16).max
    groups = members(regions)
    assert np.array_equal(np.concatenate(groups), np.arange(40_000))


def test_callers_arrays_stay_writable_and_results_do_not():
    scores, keys = np.arange(10.0), np.arange(10, dtype=np.uint64)
    regions = stratify(scores, keys=keys)
    assert scores.flags.writeable
    assert keys.flags.writeable
    assert not regions.of_row.flags.writeable


def test_non_finite_scores_are_named():
    scores = np.arange(10.0)
    scores[[2, 5, 7]] = np.nan, np.inf, -np.inf
    with pytest.raises(
        DataError, match=r"3 of 10 scores.*row 2 is nan, row 5 is inf, row 7 is -inf"
    ):
        stratify(scores)
    with pytest.raises(DataError, match=r"8 of 8 scores.*row 4 is nan, …\)"):
        stratify(np.full(8, np.nan))


@pytest.mark.parametrize("scores", [[], [[1.0, 2.0]], ["easy", "hard"], 3.0])
def test_unusable_scores(scores):
    with pytest.raises(DataError, match="scores must be"):
        stratify(scores)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cut": 1.0}, "cut must be at least 0 and below 1; got 1.0"),
        ({"cut": -0.1}, "cut must be"),
        ({"cut": float("nan")}, "cut must be"),
        ({"cut": "most"}, "cut must be at least 0 and below 1; got most"),
        ({"regions": 0}, "regions must be at least 1; got 0"),
        ({"regions": 2.5}, "regions must be a whole number"),
        ({"regions": 1_000_001}, "regions must be at most 1000000; got 1000001"),
    ],
)
def test_unusable_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        stratify([1.0, 2.0], **settings)


@pytest.mark.parametrize("keys", [[1], [0.5, 1.5], ["a", "b"]])
def test_unusable_keys(keys):
    with pytest.raises(DataError, match="keys must be 2 integers"):
        stratify([1.0, 2.0], keys=keys)


def test_equal_count_by_hand():
    # Pool of 8 in 4 regions: quantiles at ranks 2, 4, 6 and 8 of 1 2 3 4 10 20 30 99.
    scores = [1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 99.0]
    found = stratify(scores, regions=4, cut=0.0, by="count")
    assert found.of_row.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert found.edges.tolist() == [[1, 2], [2, 4], [4, 20], [20, 99]]


def test_equal_count_cuts_first():
    found = stratify([5.0, 1.0, 2.0, 3.0, 4.0], regions=2, cut=0.2, by="count")
    assert found.of_row.tolist() == [-1, 0, 0, 1, 1]


def test_equal_count_never_parts_equal_scores():
    # Ranks 2 and 4 of six: both quantiles are 1, so two regions are left of three.
    found = stratify([0.0, 1.0, 1.0, 1.0, 2.0, 3.0], regions=3, cut=0.0, by="count")
    assert found.of_row.tolist() == [0, 0, 0, 0, 1, 1]


def test_equal_count_parts_the_lowest_scores_from_the_rest():
    found = stratify([0.0] * 5 + [1.0, 2.0, 3.0, 4.0, 5.0], regions=2, cut=0.0, by="count")
    assert found.of_row.tolist() == [0] * 5 + [1] * 5
    assert found.edges.tolist() == [[0, 0], [0, 5]]


def test_equal_count_of_constant_scores_is_one_region():
    found = stratify(np.full(7, 2.5), regions=3, cut=0.0, by="count")
    assert found.of_row.tolist() == [0] * 7
    assert found.edges.tolist() == [[2.5, 2.5]]


@pytest.mark.parametrize("regions", [1, 7, 50, 2000])
def test_equal_count_differs_by_one_row_at_most(regions):
    scores = np.random.default_rng(0).lognormal(size=1000)
    sizes = stratify(scores, regions=regions, by="count").sizes
    assert sizes.sum() == 900
    assert len(sizes) == min(regions, 900)
    assert sizes.max() - sizes.min() <= 1
