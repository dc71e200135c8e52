import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from staff.selectors.order import hardest, place, smallest

ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=30)


@settings(deadline=None)
@given(ROWS, st.integers(0, 32))
def test_against_sorting(rows, count):
    """Ties of scores and even of keys: the answer is that of a full, stable sort."""
    scores = np.array([float(score) for score, _ in rows])
    keys = np.array([key for _, key in rows], dtype=np.uint64)
    sorted_rows = sorted(range(len(rows)), key=lambda r: (-scores[r], keys[r], r))
    assert hardest(scores, keys, count).tolist() == sorted(sorted_rows[:count])
    by_key = sorted(range(len(rows)), key=lambda r: (keys[r], r))
    assert smallest(keys, count).tolist() == sorted(by_key[:count])
    assert [place(scores, keys, r) for r in sorted_rows] == list(range(1, len(rows) + 1))
