"""Ids in two arrays behave as a tuple of texts."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staff.ids import PIECE, Ids

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=12)


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_like_a_tuple(texts, more):
    ids, whole = Ids.of(texts), tuple(texts)
    assert (len(ids), tuple(ids), ids) == (len(whole), whole, whole)
    assert [ids[i] for i in range(-len(whole), len(whole))] == [*whole, *whole]
    assert ids[1:4] == whole[1:4]
    assert ids[::-2] == whole[::-2]
    assert (ids == Ids.of(more)) == (whole == tuple(more))
    assert Ids.joined([ids, Ids.of(more)]) == (*texts, *more)
    assert len({ids, Ids.of(texts)}) == 1


@settings(deadline=None)
@given(TEXTS, st.integers(0, 5))
def test_from_arrow(texts, start):
    columns = [pa.array(texts, pa.string()).slice(start), pa.array([], pa.string())]
    assert Ids.from_arrow([*columns, pa.array(texts, pa.string())]) == (*texts[start:], *texts)


def test_more_than_a_piece():
    texts = [f"é{i}" for i in range(PIECE + 3)]
    assert list(Ids.of(texts)) == texts


def test_no_such_place():
    with pytest.raises(IndexError):
        Ids.of(["a"])[1]
    assert Ids.of(["a"]) != 3


def test_thirty_bytes_each():
    ids = Ids.of(f"{i:016x}-0" for i in range(1000))
    held = sum(getattr(ids, name).nbytes for name in Ids.__slots__)
    assert held <= 30 * len(ids)
    assert not any(getattr(ids, name).flags.writeable for name in Ids.__slots__)
    assert ids[np.int64(7)] == f"{7:016x}-0"
