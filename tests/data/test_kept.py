"""What a stopped run had read serves the next start, if it is whole and of the same contents."""

import json

import pytest

from staff.data import kept
from staff.data.files import open_source
from staff.data.prepare import prepare
from staff.data.records import RecordOptions
from staff.data.tokenise import Tokeniser

OPTIONS = RecordOptions(source_column="from")
ROWS = [
    {"prompt": "a b", "response": "c", "from": "x"},
    {"prompt": "bad"},
    {"prompt": "a", "response": "b c", "from": None},
    {"prompt": "a b", "response": "c", "from": "y"},
]


@pytest.fixture
def tokenisers(tokenizer):
    other = Tokeniser(tokenizer, max_length=8)
    return [Tokeniser(tokenizer, max_length=None), other, other]


@pytest.fixture
def prepared(tmp_path, tokenisers):
    data = tmp_path / "a.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    out = tmp_path / "tokens"
    return prepare(open_source(data), OPTIONS, tokenisers, on_bad_row="skip", out=out)


def test_what_was_kept_is_what_was_read(prepared, tmp_path):
    assert kept.take(tmp_path / "tokens", "key") == (None, None)
    kept.keep(prepared, tmp_path / "tokens", "key")
    again, fault = kept.take(tmp_path / "tokens", "key")
    assert fault is None
    for name in (*kept.COUNTS, "ids", "options", "rejected_path", "sources"):
        assert getattr(again, name) == getattr(prepared, name), name
    assert again.rows.tolist() == prepared.rows.tolist() == [0, 2, 3]
    assert again.sources == ("x", None, "y")
    assert (again.kept, again.seconds) == (True, prepared.seconds)
    assert prepared.seconds > 0
    assert [s.path for s in again.stores] == [s.path for s in prepared.stores]
    assert again.stores[1] is again.stores[2]
    for old, new in zip(prepared.stores, again.stores, strict=True):
        assert new.content_hash == old.content_hash
        assert new.get([2])[0].input_ids.tolist() == old.get([2])[0].input_ids.tolist()


def test_another_key_is_of_something_else(prepared, tmp_path):
    kept.keep(prepared, tmp_path / "tokens", "key")
    again, fault = kept.take(tmp_path / "tokens", "another")
    assert again is None
    assert fault == "are for other data, tokenizers or settings"


@pytest.mark.parametrize(
    "name", ["tokens-0.arrow", "tokens-1.arrow", "sources.json", "rejected.jsonl", "prepared.json"]
)
@pytest.mark.parametrize("change", ["torn", "one bit", "gone"])
def test_one_changed_byte_is_found(prepared, tmp_path, name, change):
    kept.keep(prepared, tmp_path / "tokens", "key")
    file = tmp_path / "tokens" / name
    content = bytearray(file.read_bytes())
    if change == "torn":
        file.write_bytes(content[: len(content) // 2])
    elif change == "one bit":
        content[3 if name == "prepared.json" else len(content) // 2] ^= 1
        file.write_bytes(content)
    else:
        file.unlink()
    again, fault = kept.take(tmp_path / "tokens", "key")
    assert again is None
    assert fault == (None if (name, change) == ("prepared.json", "gone") else "are damaged")


def test_the_key_is_of_all_that_decides(tokenisers):
    one, other, _ = tokenisers
    keys = {
        kept.made_from("h", "csv", OPTIONS, "skip", "keep", [one]),
        kept.made_from("g", "csv", OPTIONS, "skip", "keep", [one]),
        kept.made_from("h", "csv", RecordOptions(), "skip", "keep", [one]),
        kept.made_from("h", "csv", OPTIONS, "error", "keep", [one]),
        kept.made_from("h", "csv", OPTIONS, "skip", "skip", [one]),
        kept.made_from("h", "csv", OPTIONS, "skip", "keep", [other]),
        kept.made_from("h", "csv", OPTIONS, "skip", "keep", [one, other]),
        kept.made_from("h", "tsv", OPTIONS, "skip", "keep", [one]),
    }
    assert len(keys) == 8
    assert kept.made_from("h", "csv", OPTIONS, "skip", "keep", [one]) in keys


def test_nothing_is_kept_of_data_without_tokens(tmp_path, prepared):
    bare = prepare(open_source(tmp_path / "a.jsonl"), OPTIONS, [], on_bad_row="skip", out=tmp_path)
    kept.keep(bare, tmp_path, "key")
    assert not kept.marked(tmp_path)
