"""Batches within a token budget, and padding."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from staff.data.batches import collate, token_budget_batches
from staff.types import IGNORE, TokenisedExample


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 400), max_size=60),
    st.integers(1, 1000),
    st.none() | st.integers(1, 400),
)
def test_every_sample_once_within_the_budget(lengths, budget, apart):
    batches = token_budget_batches(np.array(lengths, np.int32), batch_tokens=budget, apart=apart)
    for batch in batches if apart else ():
        assert len({lengths[i] > apart for i in batch}) == 1
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        size = len(batch) * max(lengths[i] for i in batch)
        assert size <= budget or len(batch) == 1
    longest = [max(lengths[i] for i in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


def example(*ids):
    return TokenisedExample("x", np.array(ids), np.array([IGNORE, *ids[1:]]))


def test_padding():
    two = [example(5, 6, 7), example(8, 9)]
    right = collate(two, rows=np.array([4, 2]))
    assert right.rows.tolist() == [4, 2]
    assert right.input_ids.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert right.labels.tolist() == [[-100, 6, 7], [-100, 9, -100]]
    assert right.attention_mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    left = collate(two, side="left")
    assert left.rows.tolist() == [0, 1]
    assert left.input_ids.tolist() == [[5, 6, 7], [0, 8, 9]]
    assert left.labels.tolist() == [[-100, 6, 7], [-100, -100, 9]]
    assert left.attention_mask.tolist() == [[1, 1, 1], [0, 1, 1]]
    assert all(t.dtype.is_floating_point is False for t in (left.input_ids, left.labels))


def test_padding_to_a_multiple_stays_within_the_context():
    two = [example(5, 6, 7), example(8, 9)]
    wide = collate(two, side="left", multiple=4)
    assert wide.input_ids.tolist() == [[0, 5, 6, 7], [0, 0, 8, 9]]
    assert wide.attention_mask.tolist() == [[0, 1, 1, 1], [0, 0, 1, 1]]
    assert collate(two, multiple=16, context=10).input_ids.shape == (2, 10)
    assert collate(two, multiple=16, context=2).input_ids.shape == (2, 3)
    assert collate(two, multiple=3).input_ids.shape == (2, 3)
