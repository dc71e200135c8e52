"""The piecewise parser gives what `json.loads` gives, wherever the pieces end."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staff.data import json_array
from staff.errors import DataError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(st.lists(values, max_size=5), st.integers(1, 40), st.sampled_from([None, 1]), st.booleans())
def test_agrees_with_the_whole_parser(items, chunk, indent, ascii_only):
    text = json.dumps(items, indent=indent, ensure_ascii=ascii_only)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "CHUNK_CHARACTERS", chunk)
        found = list(json_array.items(io.StringIO(text), name="x"))
    assert [value for _, value, _ in found] == items
    assert [json.loads(raw) for _, _, raw in found] == items


@pytest.mark.parametrize("chunk", range(1, 12))
def test_numbers_and_literals_may_be_cut_anywhere(chunk, monkeypatch):
    monkeypatch.setattr(json_array, "CHUNK_CHARACTERS", chunk)
    text = "[0.5,-12.5e-3 , 1E+2,null,true,-7]"
    found = [value for _, value, _ in json_array.items(io.StringIO(text), name="x")]
    assert found == json.loads(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[{"a": 1}', "ends in the middle"),
        ('[{"a": 1},', "ends in the middle"),
        ('[{"a": "x', "broken JSON: Unterminated string$"),
        ('[{"a": 1} {"b": 2}]', "expected ',' or ']'"),
        ('[{"a": 1}] x', "after the end"),
        ('[\n{"a": 1},\n{a: 1}]', "x, line 3: broken JSON: Expecting property name"),
        ('{"a": 1}', "expected '\\['"),
    ],
)
def test_faults(text, reason):
    with pytest.raises(DataError, match=reason):
        list(json_array.items(io.StringIO(text), name="x"))


def test_a_fault_is_found_without_reading_on(monkeypatch):
    monkeypatch.setattr(json_array, "CHUNK_CHARACTERS", 100)
    text = io.StringIO("[{'a': 1}," + '{"b": 2},' * 10_000)
    with pytest.raises(DataError):
        list(json_array.items(text, name="x"))
    assert text.tell() <= 200
