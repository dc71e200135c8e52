import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staff.errors import ConfigError
from staff.selectors.quotas import apportion

SIZES = st.lists(st.integers(0, 60), min_size=1, max_size=7).filter(any)


def test_by_hand():
    # Shares 3, 1.5, 0.5 round to 3, 2, 1, one too many. The smallest claims by which places were
    # won are 30/3 = 10 and 10/1 = 10; of equal ones the smaller group's goes.
    assert apportion([60, 30, 10], 5).tolist() == [3, 2, 0]
    assert apportion([60, 30, 10], 10).tolist() == [6, 3, 1]
    # Too many at first: 1.5, 1.5, 1 would round to 2, 2, 1; one of the equal groups loses.
    assert apportion([3, 3, 2], 4).tolist() == [2, 1, 1]
    assert apportion([5, 0, 5], 0).tolist() == [0, 0, 0]


def test_no_place_is_lost_to_a_larger_total():
    # Largest remainders take the last place of 2 away from the third group at 4 (Alabama).
    places = [apportion([14, 14, 5], total).tolist() for total in range(34)]
    assert all((np.diff(places, axis=0) >= 0).all(axis=1))


@settings(deadline=None)
@given(SIZES)
def test_fair_whole_and_monotone(sizes):
    n = sum(sizes)
    before = np.zeros(len(sizes), int)
    for total in range(n + 1):
        places = apportion(sizes, total)
        assert places.sum() == total
        assert (places >= before).all()
        assert (places <= sizes).all()
        if total:
            # Webster's own test: no place would be better placed elsewhere.
            won = [s / (2 * p - 1) for s, p in zip(sizes, places, strict=True) if p]
            claims = [s / (2 * p + 1) for s, p in zip(sizes, places, strict=True)]
            assert min(won) >= max(claims) - 1e-12
        before = places


def test_many_groups_that_all_round_the_same_way():
    # 0.6 places each, 0.4 each: rounded alike, tens of thousands have to move.
    for total in (60_000, 40_000):
        places = apportion(np.full(100_000, 10), total)
        assert places.tolist() == [1] * total + [0] * (100_000 - total)


def test_errors():
    with pytest.raises(ConfigError, match="between 0 and 5"):
        apportion([2, 3], 6)
