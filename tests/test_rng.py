import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from staff.rng import keys_of_ids, priorities, stream_seed


def test_matches_splitmix64():
    # The first output of the reference SplitMix64 (Steele et al. 2014) seeded with 0.
    key = np.array([0], np.uint64) - np.array([stream_seed(7, "x")], np.uint64)
    assert int(priorities(key, 7, "x")[0]) == 0xE220A8397B1DCDAF


def test_seed_stream_and_key_all_matter():
    keys = keys_of_ids(["a", "b", "c"])
    assert len(set(keys.tolist())) == 3
    assert not np.array_equal(keys, keys_of_ids(["a", "b", "c"], seed=1))
    assert not np.array_equal(priorities(keys, 0, "draw"), priorities(keys, 0, "verify"))
    assert not np.array_equal(priorities(keys, 0, "draw"), priorities(keys, 1, "draw"))


@settings(deadline=None)
@given(st.lists(st.text(), max_size=20))
def test_a_key_depends_on_its_own_id_only(ids):
    together = keys_of_ids(ids)
    assert together.tolist() == [keys_of_ids([i])[0] for i in ids]


def test_the_smallest_priorities_are_a_uniform_draw():
    keys = np.arange(1000, dtype=np.uint64)
    hits = np.zeros(1000)
    for seed in range(400):
        hits[np.argsort(priorities(keys, seed, "draw"))[:100]] += 1
    # Binomial(400, 0.1): mean 40, standard deviation 6; 1000 rows stay within 5 deviations.
    assert abs(hits.mean() - 40) < 1e-9
    assert hits.min() > 10
    assert hits.max() < 70
