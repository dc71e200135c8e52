import numpy as np
import pytest

from staff.reports.bins import bin_lengths, bin_scores, count_by_region, intervals, most, sample


def test_score_bins_divide_the_regions_and_hold_their_upper_edge():
    scores = np.array([0.0, 1.0, 1.0, 2.0, 3.0, 100.0])
    everything = np.ones(6, bool)
    bins = bin_scores(scores, threshold=2.0, regions=2, all=everything, low=scores < 2)
    # 2 regions of 13 bins each below the cut at 2; half as much room again above it, of which
    # 3 and 100 fill what they can: 3 is the last edge, 100 lies beyond.
    assert bins.edges[[0, 13, 26, -1]] == pytest.approx([0, 1, 2, 3])
    assert bins.edges[26] == 2.0
    counts = bins.counts["all"]
    assert {i: counts[i] for i in np.flatnonzero(counts)} == {0: 1, 12: 2, 25: 1, 38: 1}
    assert bins.counts["low"].sum() == 3
    assert bins.beyond == 1


@pytest.mark.parametrize("regions", [1, 7, 50, 51, 1000])
def test_every_row_is_counted_once(regions):
    scores = np.random.default_rng(0).gamma(2, size=1000)
    threshold = np.sort(scores)[900]
    bins = bin_scores(scores, threshold=threshold, regions=regions, all=np.ones(1000, bool))
    assert bins.counts["all"].sum() + bins.beyond == 1000
    assert 25 <= np.count_nonzero(bins.edges < threshold) <= 51
    assert bins.counts["all"][bins.edges[1:] <= threshold].sum() == 901


@pytest.mark.parametrize(
    ("edges", "count"),
    [
        ([(0, 0.1), (0.1, 0.2), (0.8, 0.9)], 9),  # the empty ones between are counted
        ([(0, 1), (1, 9)], 9),  # of equal count
        ([(0, 5)], 1),
        ([(3, 3)], 1),
        ([(0, 0), (0, 2)], 1),  # many rows of the lowest score
        ([(-1.7e308, 0), (0, 1.7e308)], 1),
    ],
)
def test_regions_as_asked_for_are_told_from_those_that_are_left(edges, count):
    assert intervals([{"lower": low, "upper": high} for low, high in edges]) == count


def test_equal_scores():
    bins = bin_scores(np.zeros(5), threshold=0.0, regions=3, all=np.ones(5, bool))
    assert bins.counts["all"].tolist() == [5]
    assert bins.edges[0] < bins.edges[1] == 0
    # Of a pool of equal scores and two that were cut: each in a bin of its own.
    scores = np.array([3.0, 3, 3, 4, 9])
    bins = bin_scores(scores, threshold=3.0, regions=1, all=np.ones(5, bool))
    assert (np.diff(bins.edges) > 0).all()
    assert bins.counts["all"][0] == 3
    assert bins.counts["all"][1:].sum() == bins.beyond == 1


def test_length_bins_are_whole_numbers():
    lengths = np.array([3.0, 3, 4, 9])
    bins = bin_lengths(lengths, all=np.ones(4, bool))
    assert bins.edges.tolist() == [2, 3, 4, 5, 6, 7, 8, 9]
    assert bins.counts["all"].tolist() == [2, 1, 0, 0, 0, 0, 1]
    wide = bin_lengths(np.arange(1.0, 1001), all=np.ones(1000, bool))
    assert len(wide.edges) <= 41
    assert set(np.diff(wide.edges)) == {25.0}
    assert wide.counts["all"].sum() + wide.beyond == 1000
    lengths = np.append(np.arange(1.0, 201), [250, 5000])
    assert bin_lengths(lengths, all=np.ones(202, bool)).edges[-1] < 260
    tail = bin_lengths(lengths, tail=True, all=np.ones(202, bool))
    assert most(lengths) == 250
    assert set(np.diff(tail.edges)) == {10.0}
    assert 374 <= tail.edges[-1] < 384
    assert tail.beyond == 1


def test_the_highest_value_that_is_no_outlier():
    assert most(np.array([1.0, 2])) == 2
    assert most(np.full(9, 3.0)) == 3
    values = np.append(np.arange(40.0), 1e6)  # of fewer than a hundred, too
    assert most(values) == 39
    assert most(np.append(np.zeros(90), np.arange(10.0))) == 8  # most are equal: no fence


def test_counts_by_region():
    region = np.array([0, 0, 2, -1, 2])
    chosen = np.array([True, False, True, True, True])
    assert count_by_region(region, chosen, 3).tolist() == [1, 0, 2]


def test_a_sample_is_the_same_whatever_the_order():
    rows = np.arange(100) * 7
    few = sample(rows, 10, seed=1)
    assert few.tolist() == sorted(few)
    assert len(set(few.tolist())) == 10
    assert few.tolist() == sample(rows[::-1], 10, seed=1).tolist()
    assert few.tolist() != sample(rows, 10, seed=2).tolist()
    assert sample(rows, 100, seed=1).tolist() == rows.tolist()
    assert sample(rows, 0, seed=1).tolist() == []
