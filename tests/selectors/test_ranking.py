import numpy as np
import pytest

from staff.errors import ConfigError, DataError
from staff.rng import keys_of_ids
from staff.selectors import TAKE, select_random, select_ranked
from staff.types import REASONS


def test_total_rows_each_once():
    coreset = select_random(n=100, total=30, seed=4)
    assert len(np.unique(coreset.rows)) == 30
    assert (
        np.flatnonzero(coreset.reason == REASONS.index("budget")).tolist() == coreset.rows.tolist()
    )
    assert np.array_equal(coreset.rows, np.sort(coreset.rows))
    assert coreset.method == "random"


def test_draws_nest_and_seeds_differ():
    small, large = (set(select_random(n=100, total=t).rows.tolist()) for t in (10, 50))
    assert small < large
    assert small != set(select_random(n=100, total=10, seed=1).rows.tolist())


def test_the_order_of_the_input_does_not_matter():
    ids = [f"row-{i}" for i in range(50)]
    mixed = [ids[i] for i in np.random.default_rng(0).permutation(50)]
    one = {ids[r] for r in select_random(keys=keys_of_ids(ids), total=9).rows}
    other = {mixed[r] for r in select_random(keys=keys_of_ids(mixed), total=9).rows}
    assert one == other


def test_errors():
    with pytest.raises(ConfigError, match="needs n"):
        select_random(total=1)
    with pytest.raises(ConfigError, match="between 1 and 3"):
        select_random(n=3, total=4)
    with pytest.raises(ConfigError, match=r"n must be a whole number; got 3\.0"):
        select_random(n=3.0, total=1)
    with pytest.raises(DataError, match="keys must be 3 integers"):
        select_random(n=3, keys=[1, 2], total=1)


SCORES = [3.0, 9.0, 1.0, 5.0, 7.0]


def test_take_by_hand():
    # From the hardest: rows 1 (9), 4 (7), 3 (5), 0 (3), 2 (1).
    def order(take, total=5):
        return select_ranked(scores=SCORES, total=total, take=take).order.tolist()

    assert order("highest") == [1, 4, 3, 0, 2]
    assert order("lowest") == [2, 0, 3, 4, 1]
    assert order("middle") == [3, 0, 4, 2, 1]  # then one below, one above, and so on
    assert order("middle", 2) == [3, 0]
    # Four rows have two middle ranks: the higher score first.
    assert select_ranked(scores=[1, 2, 3, 4], total=4, take="middle").order.tolist() == [2, 1, 3, 0]


def test_ties_go_by_smaller_key():
    for keys in ([4, 2, 9, 1], [-1, -3, 4, -4]):
        for take in TAKE:
            order = select_ranked(scores=[1.0] * 4, total=4, take=take, keys=keys).order.tolist()
            by_key = [3, 1, 0, 2]
            assert order == (by_key if take != "middle" else [1, 0, 3, 2])


def test_perplexity_ranks_like_loss():
    for take in TAKE:
        loss, perplexity = (
            select_ranked(scores=s, total=3, take=take).rows.tolist()
            for s in (SCORES, np.exp(SCORES))
        )
        assert loss == perplexity


def test_unknown_take():
    with pytest.raises(ConfigError, match="unknown take 'high'; did you mean 'highest'"):
        select_ranked(scores=SCORES, total=1, take="high")
