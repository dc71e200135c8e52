import json
import os

import numpy as np
import pytest

from staff.data.files import open_source
from staff.data.lists import group_by_column, read_ids
from staff.errors import DataError
from staff.hashing import hash_file


def test_ids_one_a_line(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_bytes("\ufeffa-0\r\n\n  b 1 \né".encode())
    assert read_ids(path).ids == ["a-0", "b 1", "é"]
    assert read_ids(path).sha256 == hash_file(path)
    path.write_text("a\rb\x0bc", encoding="utf-8")  # a bare carriage return ends a line, too
    assert read_ids(path).ids == ["a", "b\x0bc"]
    path.write_text("")
    assert read_ids(path).ids == []


def test_lists_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*none\.txt"):
        read_ids(tmp_path / "none.txt")
    (tmp_path / "b").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match="not a text file"):
        read_ids(tmp_path / "b")
    (tmp_path / "t").write_text("a\nb\n\na\n")
    with pytest.raises(DataError, match="'a' is in line 1 and line 4"):
        read_ids(tmp_path / "t")
    os.mkfifo(tmp_path / "p")  # as of --include <(…): the check would leave nothing for the run
    with pytest.raises(DataError, match=r"p is a pipe or a device\. Write the ids to a file"):
        read_ids(tmp_path / "p")


@pytest.fixture
def source(tmp_path):
    rows = [{"x": "b"}, {"x": "a"}, {}, {"x": None}, {"x": 7}, {"x": "b"}]
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"text": "t", **row}) + "\n" for row in rows))
    return open_source(path)


def test_groups_are_numbered_by_value_by_hand(source):
    group, values = group_by_column(source, "x", np.arange(6))
    assert values == ["", "7", "a", "b"]
    assert group.tolist() == [3, 2, 0, 0, 1, 3]


def test_only_the_rows_asked_for_count(source):
    group, values = group_by_column(source, "x", np.array([0, 5]))
    assert (group.tolist(), values) == ([0, 0], ["b"])


def test_a_column_that_is_not_there(source):
    with pytest.raises(DataError, match="no column 'y' for quotas; it has: text, x"):
        group_by_column(source, "y", np.arange(6))
