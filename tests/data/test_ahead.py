"""Rows that are read while others are tokenised: the same results, errors and bytes as one by one."""

import json
import threading

import pytest

from staff.data.ahead import in_order
from staff.data.files import Source, open_source
from staff.data.prepare import CHUNK_ROWS, prepare
from staff.data.records import RecordOptions
from staff.data.tokenise import Tokeniser, threads
from staff.errors import DataError, StaffError

SETTINGS = {
    "off": {"TOKENIZERS_PARALLELISM": "false"},
    "one thread": {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "1"},
    "three threads": {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "3"},
}


@pytest.fixture(params=list(SETTINGS))
def setting(request, monkeypatch):
    for name, value in SETTINGS[request.param].items():
        monkeypatch.setenv(name, value)
    return request.param


def test_what_the_environment_says(monkeypatch):
    for name in ("TOKENIZERS_PARALLELISM", "RAYON_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert threads() >= 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("RAYON_NUM_THREADS", "")
    assert threads() == 3
    monkeypatch.setenv("RAYON_NUM_THREADS", "2")
    assert threads() == 2
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "False")
    assert threads() == 1


def test_every_job_in_order(setting):
    where = set()

    def square(n):
        where.add(threading.current_thread() is threading.main_thread())
        return n * n

    assert list(in_order(square, iter(range(20)))) == [(n, n * n) for n in range(20)]
    assert list(in_order(square, iter(()))) == []
    assert where == {setting != "three threads"}
    assert not [t for t in threading.enumerate() if t.name.startswith("tokenise")]


def test_an_error_comes_behind_earlier_results(setting):
    def jobs():
        yield from (1, 2)
        raise StaffError("the third")

    results = in_order(lambda n: -n, jobs())
    assert [next(results), next(results)] == [(1, -1), (2, -2)]
    with pytest.raises(StaffError, match="the third"):
        next(results)
    assert not [t for t in threading.enumerate() if t.name.startswith("tokenise")]


def test_the_first_of_two_errors(setting):
    def jobs():
        yield 1
        raise DataError("of the reader, later")

    def work(_):
        raise DataError("of the work on what was read first")

    with pytest.raises(DataError, match="of the work"):
        list(in_order(work, jobs()))


def written(path, tokenizer, out):
    tokeniser = Tokeniser(tokenizer, max_length=100)
    prepare(open_source(path), RecordOptions(), [tokeniser], on_bad_row="skip", out=out)
    return {file.name: file.read_bytes() for file in out.iterdir()}


def test_the_same_bytes_whatever_the_threads(jsonl, tokenizer, tmp_path, monkeypatch):
    rows = [{"prompt": f"row {i}", "response": "it is " * (i % 60)} for i in range(CHUNK_ROWS + 90)]
    found = []
    for name, values in SETTINGS.items():
        for key, value in values.items():
            monkeypatch.setenv(key, value)
        found.append(written(jsonl([*rows, "{", *rows[::-1]]), tokenizer, tmp_path / name))
    assert found[0] == found[1] == found[2]
    assert sorted(found[0]) == ["rejected.jsonl", "tokens.arrow"]
    assert len(found[0]["rejected.jsonl"].splitlines()) == 2 * 11 + 1


def test_an_interrupt_leaves_nothing(setting, jsonl, tokenizer, tmp_path):
    real = open_source(jsonl([{"prompt": "a", "response": f"b {i}"} for i in range(2000)]))

    def interrupted():
        for raw in real.records():
            if raw.row == 3 * CHUNK_ROWS:
                raise KeyboardInterrupt
            yield raw

    source = Source(real.name, real.kind, real.files, interrupted)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare(source, RecordOptions(), [Tokeniser(tokenizer, max_length=None)], out=out)
    assert list(out.iterdir()) == []
    assert not [t for t in threading.enumerate() if t.name.startswith("tokenise")]


def test_the_first_place_of_an_id_is_found_again(setting, jsonl, tokenizer, tmp_path):
    rows = [{"id": i, "prompt": "a", "response": "b"} for i in range(2 * CHUNK_ROWS)]
    bad = {"id": 700, "prompt": "a", "response": ""}  # is given no id
    path = jsonl([bad, *rows, json.dumps(rows[700])])
    options = RecordOptions(id_column="id")
    message = r"line 702 \(row 701\) and line 1026 \(row 1025\) have the same id '700' in"
    with pytest.raises(DataError, match=message):
        prepare(
            open_source(path), options, [Tokeniser(tokenizer, max_length=None)],
            out=tmp_path / "out", on_bad_row="skip",
        )  # fmt: skip
