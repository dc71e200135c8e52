"""Faults of Parquet and Arrow files."""

import errno

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from staff.data.files import open_source
from staff.data.tables import _hub_faults
from staff.errors import DataError, DiskFullError


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
def test_broken_file(name, tmp_path):
    (tmp_path / name).write_bytes(b"no table at all" * 10)
    with pytest.raises(DataError, match=r"cannot read .*a\."):
        list(open_source(tmp_path / name).records())


def test_cut_arrow_stream(tmp_path):
    table = pa.table({"a": ["x" * 100] * 1000})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as f, pa.ipc.new_stream(f, table.schema) as w:
        w.write_table(table, max_chunksize=100)
    content = (tmp_path / "a.arrow").read_bytes()
    (tmp_path / "a.arrow").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cannot read"):
        list(open_source(tmp_path / "a.arrow").records())


@pytest.fixture
def stream():
    """An Arrow stream of three batches of 10 rows."""

    def write(**options):
        table, sink = pa.table({"a": ["x"] * 30}), pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(**options)
        with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=10)
        return sink.getvalue().to_pybytes()

    return write


def test_arrow_stream_without_its_last_batches(stream, tmp_path):
    """As a killed writer leaves it, which PyArrow takes for a whole one."""
    content, passed = stream(), []
    for cut in range(1, len(content)):
        (tmp_path / "a.arrow").write_bytes(content[:cut])
        try:
            passed.append(len(list(open_source(tmp_path / "a.arrow").records())))
        except DataError as error:
            assert "cannot read" in str(error)  # noqa: PT017
    assert not passed


def test_arrow_streams_that_are_joined(stream, tmp_path):
    (tmp_path / "a.arrow").write_bytes(stream() * 2)
    with pytest.raises(DataError, match=r"a\.arrow goes on behind the end of its Arrow stream"):
        list(open_source(tmp_path / "a.arrow").records())


def test_arrow_stream_of_an_old_version(stream, tmp_path):
    (tmp_path / "a.arrow").write_bytes(stream(use_legacy_format=True))
    assert len(list(open_source(tmp_path / "a.arrow").records())) == 30


def test_invalid_utf8_is_one_bad_row(tmp_path):
    column = pa.Array.from_buffers(
        pa.string(),
        3,
        [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffb")],
    )
    pq.write_table(pa.table({"a": column}), tmp_path / "a.parquet")
    good, bad, last = open_source(tmp_path / "a.parquet").records()
    assert (good.record, last.record) == ({"a": "a"}, {"a": "b"})
    assert (bad.problem, bad.place) == ("invalid UTF-8", "row 1")


def test_a_date_that_python_does_not_have_is_one_bad_row(tmp_path):
    dates = pa.array([0, 1 << 40], pa.timestamp("s"))
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as f:
        table = pa.table({"a": dates})
        with pa.ipc.new_file(f, table.schema) as writer:
            writer.write_table(table)
    good, bad = open_source(tmp_path / "a.arrow").records()
    assert good.record
    assert bad.record is None
    assert bad.problem.startswith("cannot be read: ")


def test_nested_columns(tmp_path):
    record = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "a.parquet")
    assert [r.record for r in open_source(tmp_path / "a.parquet").records()] == [record]


def as_json(values):
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array(values, pa.string()))


def test_json_in_columns(tmp_path):
    """`datasets` stores so what has not one type, as messages of which some call tools."""
    texts = as_json(['{"a": [1, null]}', '"b"', None, "{", "[" * 100_000])
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 3, 4, 5]), texts)
    structs = pa.StructArray.from_arrays([texts[:4], pa.array([1, 2, 3, 4])], ["x", "n"])
    table = pa.table({"lists": lists, "structs": structs, "plain": ["{", "[", "c", "d"]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as f, pa.ipc.new_file(f, table.schema) as w:
        w.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        first, second, third, fourth = open_source(tmp_path / name).records()
        assert first.record == {
            "lists": [{"a": [1, None]}, "b"],
            "structs": {"x": {"a": [1, None]}, "n": 1},
            "plain": "{",
        }
        assert second.record == {"lists": [None], "structs": {"x": "b", "n": 2}, "plain": "["}
        assert third.record is None
        assert third.problem.startswith("cannot be read: Expecting property name")
        assert fourth.problem.startswith("cannot be read: ")


def test_a_key_twice_in_json_in_a_column(tmp_path):
    table = pa.table({"x": as_json(['{"a": 1}', '{"a": 1, "b": {"c": 2, "c": 3}}'])})
    pq.write_table(table, tmp_path / "a.parquet")
    good, bad = open_source(tmp_path / "a.parquet").records()
    assert good.record == {"x": {"a": 1}}
    assert bad.problem == "cannot be read: the key 'c' appears more than once"


def test_a_full_disk_is_no_lack_of_a_connection():
    full = OSError(errno.ENOSPC, "No space left on device", "/cache/part.parquet")
    with (
        pytest.raises(DiskFullError, match=r"^the disk is full while writing /cache/part.parquet"),
        _hub_faults("owner/name"),
    ):
        raise full
