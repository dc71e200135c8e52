"""Repeats are counted as a dictionary of counts would."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from staff.data.occurrences import Occurrences


def counted(calls):
    seen: Counter = Counter()
    for numbers in calls:
        found = []
        for number in numbers:
            found.append(seen[number])
            seen[number] += 1
        yield found


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 9) | st.just(2**64 - 1), max_size=9), max_size=9))
def test_like_a_dictionary(calls):
    seen = Occurrences()
    assert [seen.count(np.array(c, np.uint64)).tolist() for c in calls] == list(counted(calls))


def test_many():
    calls = np.array_split(np.random.default_rng(0).integers(0, 3000, 10_000), 70)
    seen = Occurrences()
    found = [seen.count(numbers.astype(np.uint64)).tolist() for numbers in calls]
    assert found == list(counted(numbers.tolist() for numbers in calls))


def test_few_runs_of_what_is_there_once():
    seen = Occurrences()
    for start in range(0, 100_000, 500):
        seen.count(np.arange(start, start + 500, dtype=np.uint64))
    lengths = [len(numbers) for numbers, _ in seen._runs]
    assert sum(lengths) == 100_000
    assert len(lengths) <= 8
    assert sum(a.nbytes + b.nbytes for a, b in seen._runs) == 12 * 100_000
