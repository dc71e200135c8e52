"""Faults and traps of text files, row by row."""

import csv
import json

import pytest

from staff.data.files import open_source
from staff.data.readers import parse_line
from staff.errors import DataError


def rows(path):
    return list(open_source(path).records())


def test_line_separators_inside_strings_do_not_end_a_line(jsonl):
    texts = ["a\u2028b", "a\u2029b", "a\x85b", "a\x0bb\x0cc", "a\x1cb"]
    path = jsonl([json.dumps({"text": t}, ensure_ascii=False) for t in texts])
    assert [r.record["text"] for r in rows(path)] == texts


def test_bom_crlf_blank_lines_and_no_last_line_feed(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": "1"}\r\n\r\n  \n{"a": "2"}')
    first, second = rows(path)
    assert (first.record, first.line, first.raw) == ({"a": "1"}, 1, '{"a": "1"}\r')
    assert (second.record, second.line, second.row) == ({"a": "2"}, 4, 1)
    assert second.place == "line 4 (row 1)"


def test_bad_lines_are_rows_with_a_reason(jsonl):
    path = jsonl([{"a": 1}, '{"a": ', "[1]", b'{"a": "\xff"}', "null", "[" * 100_000, {"a": 2}])
    good, broken, listed, not_utf8, null, deep, last = rows(path)
    assert good.record == {"a": 1}
    assert last.record == {"a": 2}
    assert broken.problem.startswith("broken JSON: Expecting value at column")
    cut = parse_line(b'{"a": "x', row=0, line=1)
    assert cut.problem == "broken JSON: Unterminated string starting at column 7"
    assert listed.problem == null.problem == "not a JSON object"
    assert not_utf8.problem == "invalid UTF-8 at byte 8 of the line"
    assert not_utf8.raw == '{"a": "\ufffd"}'
    assert deep.problem == "lists and objects are nested too deeply"
    assert [r.row for r in (good, broken, listed, not_utf8, null, deep, last)] == list(range(7))


def test_utf16_is_named(tmp_path):
    for name, text in (("a.jsonl", '{"a": 1}\n'), ("a.json", '[{"a": 1}]'), ("a.csv", "a,b\n1,2")):
        (tmp_path / name).write_bytes(text.encode("utf-16"))
        with pytest.raises(DataError, match=r"UTF-16"):
            rows(tmp_path / name)


def test_json_array_rows(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'[\n{"a": "\xff"},\n{"a": 1},\n7\n]\n')
    not_utf8, good, number = rows(path)
    assert not_utf8.problem == "invalid UTF-8"
    assert (good.record, good.line) == ({"a": 1}, 3)
    assert (number.problem, number.line) == ("not a JSON object", 4)


def test_csv_quotes_and_line_ends(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(
        b'\xef\xbb\xbfprompt,response\r\n"a, ""b""\r\nc",d\r\n\r\n007,\xe2\x80\xa8x\r\nlone\rcr,y\r\n'
    )
    first, second, *rest = rows(path)
    assert first.record == {"prompt": 'a, "b"\r\nc', "response": "d"}
    assert first.line == 2
    assert second.record == {"prompt": "007", "response": "\u2028x"}
    assert second.line == 5
    assert rest


def test_csv_bad_rows(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'a,b\n1,2\n1\n1,2,3\n"x"y,2\n\xff,2\n3,4\n')
    found = rows(path)
    assert [r.record for r in found] == [{"a": "1", "b": "2"}, *[None] * 4, {"a": "3", "b": "4"}]
    assert found[1].problem == "1 field where the header has 2"
    assert found[2].problem == "3 fields where the header has 2"
    assert found[3].problem.startswith("broken CSV")
    assert found[4].problem == "invalid UTF-8"
    assert [r.raw for r in found[1:-1]] == ["1", "1,2,3", '"x"y,2', "?,2"]
    assert [r.line for r in found] == [2, 3, 4, 5, 6, 7]


def test_csv_open_quote_cannot_swallow_rows(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('a,b\n1,2\n"3,4\n5,6\n')
    with pytest.raises(DataError, match="line 3: a quotation mark opens here and never closes"):
        rows(path)


def test_csv_long_fields_and_repeated_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b\n" + "x" * 300_000 + ",y\n")
    assert len(rows(path)[0].record["a"]) == 300_000
    path.write_text("a,a\n1,2\n")
    with pytest.raises(DataError, match="column 'a' appears more than once"):
        rows(path)


def test_the_callers_own_limit_of_csv_fields_is_not_lowered(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,response\np,r\n")
    mine = 1 << 40
    before = csv.field_size_limit(mine)
    try:
        assert len(list(open_source(tmp_path / "a.csv").records())) == 1
        assert csv.field_size_limit() == mine
    finally:
        csv.field_size_limit(before)
