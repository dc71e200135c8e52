import numpy as np
import pytest

from staff.compare.statistics import Estimate, estimate, verdict
from staff.errors import DataError
from staff.training.metrics import bleu, bleu_counts
from staff.training.statistics import Interval


def test_seeds_alone_give_the_t_interval():
    # Items agree, so only seeds vary: 1, 2, 3 have mean 2 and standard deviation 1, and
    # t(0.975, 2 degrees of freedom) = 4.303: 2 ± 4.303 / √3 = 2 ± 2.484.
    found = estimate([[1.0] * 5, [2.0] * 5, [3.0] * 5]).interval()
    assert found.mean == 2.0
    assert found.low == pytest.approx(2 - 2.484, abs=0.05)
    assert found.high == pytest.approx(2 + 2.484, abs=0.05)
    # Two say little: t(0.975, 1) = 12.706 of √2 / √2.
    found = estimate([[1.0] * 5, [3.0] * 5]).interval()
    assert found == pytest.approx((2, 2 - 12.706, 2 + 12.706), rel=0.06)


def test_items_alone_give_the_bootstrap_interval():
    # Both seeds agree. 100 items of standard deviation 1/2: about ± 1.96 · 0.5 / √100 = 0.098.
    items = np.tile([0.0, 1.0], 50)
    for seeds in (1, 2):
        found = estimate([items] * seeds).interval()
        assert found.mean == 0.5
        assert found.low == pytest.approx(0.5 - 0.098, abs=0.012)
        assert found.high == pytest.approx(0.5 + 0.098, abs=0.012)


def test_a_resample_has_as_many_items_as_there_are():
    # Of 0 and 1 twice the one, twice the other, or both, with odds 1 : 1 : 2.
    means, counts = np.unique(estimate([[0.0, 1.0]]).draws, return_counts=True)
    assert means.tolist() == [0, 0.5, 1]
    assert counts / 2000 == pytest.approx([0.25, 0.5, 0.25], abs=0.05)


def test_a_difference_is_paired_by_seed_and_item():
    draw = np.random.default_rng(0)
    hard = draw.normal(0, 5, size=(3, 40))  # what is hard, is hard for both
    a, b = estimate(hard + 0.1), estimate(hard)
    found = (a - b).interval()
    assert np.allclose(found, 0.1)
    assert a.interval().high - a.interval().low > 1
    # Pairing is by seed: the same values in another order of seeds are another difference.
    other = (a - estimate(hard[::-1])).interval()
    assert other.high - other.low > 0.1


def test_resampling_in_pieces_changes_nothing(monkeypatch):
    values = np.random.default_rng(0).normal(size=(2, 30))
    whole = estimate(values)
    monkeypatch.setattr("staff.compare.statistics.HELD", 30 * 7)
    pieces = estimate(values)
    assert np.array_equal(whole.draws, pieces.draws)
    assert whole.interval() == pieces.interval()
    monkeypatch.setattr(
        "staff.compare.statistics.HELD", 29
    )  # one at a time, then, but for rounding
    np.testing.assert_allclose(estimate(values).draws, whole.draws, rtol=1e-9)


def test_bleu_is_of_the_corpus():
    # In the last no four words in a row are right: the score is smoothed by how many there were.
    said = [["a b c d e", "f g h i"], ["a b c d", "f g h j"], ["a b c x", "f g h j"]]
    wanted = ["a b c d e", "f g h i"]
    counts = np.array([bleu_counts(one, wanted) for one in said])  # [3, 2, 10]
    found = estimate(counts, resamples=50)
    assert found.by_seed.tolist() == [bleu(one, wanted)[1] for one in said]
    assert found.by_seed[0] == pytest.approx(100)
    assert found.interval().low < found.value < found.interval().high


def coverage(interval_of, *, seeds, trials=400, items=30):
    """How often an interval holds the true mean, 0, where seeds matter more than items."""
    draw = np.random.default_rng(1)
    held = 0
    for _ in range(trials):
        values = draw.normal(0, 1, (seeds, 1)) + draw.normal(0, 1, (seeds, items))
        low, high = interval_of(values)
        held += low <= 0 <= high
    return held / trials


def resampled(values):
    """The usual alternative: resample seeds, too (pigeonhole bootstrap: Owen, 2007)."""
    draw = np.random.default_rng(2)
    seeds, items = values.shape
    of_items = draw.multinomial(items, np.full(items, 1 / items), size=300) / items
    of_seeds = draw.multinomial(seeds, np.full(seeds, 1 / seeds), size=300) / seeds
    return np.quantile(((of_items @ values.T) * of_seeds).sum(axis=1), [0.025, 0.975])


def test_intervals_over_few_seeds_hold_what_they_promise():
    def ours(values):
        return estimate(values, resamples=200).interval()[1:]

    assert coverage(ours, seeds=3) > 0.92
    assert coverage(ours, seeds=5) > 0.92
    assert coverage(resampled, seeds=3) < 0.8  # why seeds are not resampled


def test_intervals_over_few_items_hold_what_they_promise():
    draw = np.random.default_rng(3)
    for items in (3, 5, 10):
        tables = draw.normal(0, 1, (300, 1, items))
        found = [estimate(table, resamples=200).interval() for table in tables]
        assert np.mean([low <= 0 <= high for _, low, high in found]) > 0.92
    # One item tells nothing of others, however many seeds agree.
    alone = estimate([[1.0], [1.1], [1.0]]).interval()
    assert (alone.low, alone.high) == (-np.inf, np.inf)
    assert verdict(alone, smaller_is_better=False) == "tie"


def test_verdicts():
    above, below, around = Interval(2, 1, 3), Interval(-2, -3, -1), Interval(1, -1, 3)
    assert [verdict(x, smaller_is_better=False) for x in (above, below, around)] == [
        "win",
        "loss",
        "tie",
    ]
    assert [verdict(x, smaller_is_better=True) for x in (above, below)] == ["loss", "win"]
    assert verdict(Interval(0, 0, 0), smaller_is_better=True) == "tie"


def test_refusals():
    with pytest.raises(DataError, match=r"shape is \(3,\)"):
        estimate([1.0, 2.0, 3.0])
    with pytest.raises(DataError, match=r"shape is \(2, 0\)"):
        estimate(np.empty((2, 0)))
    with pytest.raises(DataError, match=r"shape is \(2, 3, 4\)"):
        estimate(np.ones((2, 3, 4)))
    with pytest.raises(DataError, match="1 of 4 values are not finite"):
        estimate([[1.0, np.nan], [1.0, 2.0]])
    one, two = estimate([[1.0]]), estimate([[1.0], [2.0]])
    with pytest.raises(DataError, match="need the same seeds: 1 and 2"):
        one - two
    with pytest.raises(DataError, match="need the same items: 1 and 3"):
        one - estimate([[1.0, 2.0, 3.0]])
    assert isinstance(two - two, Estimate)
