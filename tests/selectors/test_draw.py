import numpy as np
import pytest

from staff.errors import ConfigError, DataError
from staff.rng import stream_seed
from staff.selectors import draw, stratify
from staff.types import REASONS, Budget


def reasons(selection):
    return [REASONS[code] for code in selection.reason]


def budget_of(*count, total):
    return Budget(count=np.array(count), total=total)


def test_hardest_by_hand():
    # Edges 0, 3.5, 7: {0,1,2,3} and {4,5,6,7}; 1 of the first, 2 of the second.
    scores = np.arange(8.0)
    regions = stratify(scores, regions=2, cut=0.0)
    coreset = draw(scores, regions, budget_of(1, 2, total=3))
    assert coreset.rows.tolist() == [3, 6, 7]


def test_hardest_ties_go_by_smaller_key():
    scores = np.array([1.0, 1.0, 1.0, 1.0])
    regions = stratify(scores, cut=0.0)
    budget = budget_of(2, total=2)
    assert draw(scores, regions, budget).rows.tolist() == [0, 1]
    assert draw(scores, regions, budget, keys=[7, 3, 9, 5]).rows.tolist() == [1, 3]


def splitmix64(key, seed, stream):
    """The priority of one key, in Python's own integers (Steele et al., OOPSLA 2014)."""
    mask = 2**64 - 1
    z = (key + stream_seed(seed, stream)) & mask
    z = (z * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_random_by_hand():
    # The draw of m_i is the m_i smallest priorities of the region, the top-up the
    # smallest of what is left of the pool.
    scores = np.arange(8.0)
    keys = [50, 3, 17, 4, 99, 12, 8, 61]
    regions = stratify(scores, regions=2, cut=0.0)
    coreset = draw(scores, regions, budget_of(1, 2, total=5), within="random", seed=11, keys=keys)
    by_draw = sorted(range(8), key=lambda row: splitmix64(keys[row], 11, "draw"))
    low = [row for row in by_draw if row < 4][:1]
    high = [row for row in by_draw if row >= 4][:2]
    left = set(range(8)) - set(low) - set(high)
    extra = sorted(left, key=lambda row: splitmix64(keys[row], 11, "top-up"))[:2]
    assert coreset.rows.tolist() == sorted(low + high + extra)
    assert [i for i, r in enumerate(reasons(coreset)) if r == "budget"] == sorted(low + high)
    assert [i for i, r in enumerate(reasons(coreset)) if r == "top-up"] == sorted(extra)


def test_total_larger_than_the_pool_by_hand():
    # n = 10, cut 0.3: 7, 8, 9 go. Total 9: the pool 0..6, then the lowest of the cut, 7 and 8.
    scores = np.arange(10.0)[::-1]  # row r has score 9 - r
    regions = stratify(scores, regions=2, cut=0.3)
    coreset = draw(scores, regions, budget_of(4, 3, total=9))
    assert sorted(scores[coreset.rows]) == list(range(9))
    assert reasons(coreset) == ["cut"] + ["top-up"] * 2 + ["budget"] * 7


def test_top_up_from_the_pool_before_the_cut():
    scores = np.arange(10.0)
    regions = stratify(scores, regions=2, cut=0.3)
    coreset = draw(scores, regions, budget_of(0, 0, total=7))
    assert coreset.rows.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert set(reasons(coreset)[:7]) == {"top-up"}
    assert set(reasons(coreset)[7:]) == {"cut"}


def test_everything():
    scores = np.arange(10.0)
    regions = stratify(scores, regions=2, cut=0.3)
    assert draw(scores, regions, budget_of(4, 3, total=10)).rows.tolist() == list(range(10))


def test_random_draws_are_uniform():
    scores = np.arange(20.0)
    regions = stratify(scores, regions=1, cut=0.0)
    counts = np.zeros(20)
    for seed in range(2000):
        counts[draw(scores, regions, budget_of(5, total=5), within="random", seed=seed).rows] += 1
    # Binomial(2000, 1/4): mean 500, standard deviation 19.4; five of them either way.
    assert np.abs(counts - 500).max() < 97


def test_spread_takes_turns_by_hand():
    # One region of 6 rows in groups a a a a b c; in the random order r each group gives its
    # first row before any gives a second one.
    scores, groups = np.arange(6.0), [7, 7, 7, 7, 3, 5]
    regions = stratify(scores, regions=1, cut=0.0)
    for seed in range(20):
        order = sorted(range(6), key=lambda row: splitmix64(row, seed, "draw"))
        firsts = sorted([next(row for row in order if row < 4), 4, 5], key=order.index)
        turns = firsts + [row for row in order if row not in firsts]  # a's others follow
        for m in (1, 2, 3, 4, 5):
            coreset = draw(
                scores, regions, budget_of(m, total=m), within="spread", seed=seed, groups=groups
            )
            assert coreset.rows.tolist() == sorted(turns[:m])


def test_spread_over_one_group_is_random():
    scores = np.arange(30.0)
    regions = stratify(scores, regions=3, cut=0.0)
    plain, spread = (
        draw(scores, regions, budget_of(3, 3, 3, total=9), within=within, groups=np.zeros(30))
        for within in ("random", "spread")
    )
    assert plain.rows.tolist() == spread.rows.tolist()


def test_spread_needs_a_group_for_each_row():
    scores = np.arange(4.0)
    asked = (scores, stratify(scores, cut=0.0), budget_of(1, 0, 0, 0, total=1))
    with pytest.raises(ConfigError, match="'spread' needs groups"):
        draw(*asked, within="spread")
    with pytest.raises(DataError, match=r"groups must be 4, one per row; got shape \(3,\)"):
        draw(*asked, within="spread", groups=[1, 2, 3])


def test_unknown_within():
    scores = np.arange(4.0)
    with pytest.raises(ConfigError, match="unknown within 'hard'; did you mean 'hardest'"):
        draw(scores, stratify(scores), budget_of(1, total=1), within="hard")
