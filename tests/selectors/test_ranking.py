import numpy as np
import pytest

from staff.errors import ConfigError, DataError
from staff.rng import keys_of_ids
from staff.selectors import select_random
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
    with pytest.raises(DataError, match="keys must be 3 integers"):
        select_random(n=3, keys=[1, 2], total=1)
