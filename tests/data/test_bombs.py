"""Small files that would fill the memory: they are refused before they do."""

import gzip
import json
import re
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from staff.data.columns import resolve_options
from staff.data.files import open_source, write_records
from staff.data.records import RecordOptions
from staff.data.streams import ROW_LIMIT
from staff.errors import DataError

UNPACKED = 1 << 30
READ = """
import json, sys, time
from staff.data.files import open_source
from staff.errors import DataError
from staff.planning import peak
said = []
before = peak.read("cpu")
for path in sys.argv[1:]:
    start = time.process_time()
    try:
        said.append(str(sum(1 for _ in open_source(path).records())))
    except DataError as error:
        said.append(str(error))
    said.append(time.process_time() - start)
print(json.dumps([said, (peak.read("cpu") - before) >> 20]))
"""


def zst(path, start):
    """A file of some KB that unpacks to a GiB, all of it in one row."""
    packer = zstandard.ZstdCompressor().compressobj()
    piece = b" " * (1 << 22)
    packed = [packer.compress(start), *(packer.compress(piece) for _ in range(UNPACKED >> 22))]
    path.write_bytes(b"".join([*packed, packer.flush()]))


def test_a_row_that_unpacks_to_a_gigabyte(tmp_path):
    starts = {"a.jsonl.zst": b'{"a": "', "a.json.zst": b'[{"a": "', "a.csv.zst": b'a,b\n1,"'}
    for name, start in starts.items():
        zst(tmp_path / name, start)
        assert (tmp_path / name).stat().st_size < 200_000
    paths = [str(tmp_path / name) for name in starts]
    done = subprocess.run(
        [sys.executable, "-c", READ, *paths], capture_output=True, text=True, check=True
    )
    said, megabytes = json.loads(done.stdout)
    for message, seconds in zip(said[::2], said[1::2], strict=True):
        assert "a row is longer than 32 MiB. Split it, or check" in message
        assert seconds < 2
    assert megabytes < 400


def test_a_gzip_file_is_no_other_matter(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"a": "' + b" " * (ROW_LIMIT + 1)))
    with pytest.raises(DataError, match=r"a\.jsonl\.gz, line 1: a row is longer than 32 MiB"):
        list(open_source(tmp_path / "a.jsonl.gz").records())


@pytest.mark.slow
def test_a_parquet_page_that_unpacks_to_half_a_gigabyte(tmp_path):
    rows = ["x" * (1 << 29), *["y"] * 1000]
    written = {"use_dictionary": False, "compression": "zstd", "write_statistics": False}
    pq.write_table(pa.table({"a": rows}), tmp_path / "a.parquet", **written)
    pq.write_table(pa.table({"a": rows[:1]}), tmp_path / "b.parquet", **written)
    assert (tmp_path / "a.parquet").stat().st_size < 200_000
    paths = [str(tmp_path / name) for name in ("a.parquet", "b.parquet")]
    done = subprocess.run(
        [sys.executable, "-c", READ, *paths], capture_output=True, text=True, check=True
    )
    said, megabytes = json.loads(done.stdout)
    assert re.search("column 'a' unpacks from [0-9,]+ bytes to 536,8[0-9,]+", said[0])
    assert megabytes < 100


def test_a_parquet_dictionary_that_says_one_value_a_thousand_times(tmp_path):
    """A megabyte in a few hundred bytes, and as many rows as one batch would take."""
    written = {"compression": "zstd", "write_statistics": False, "store_schema": False}
    value, rows = pa.array(["x" * (1 << 20)]), 512
    for name, first in (("a.parquet", []), ("b.parquet", [None])):  # b: its dictionary comes late
        places = pa.array([*first, *[0] * (rows - len(first))], pa.int32())
        column = pa.DictionaryArray.from_arrays(places, value)
        in_lists = pa.ListArray.from_arrays(pa.array(range(rows + 1), pa.int32()), column)
        table = pa.table({"a": column, "b": in_lists})
        pq.write_table(table, tmp_path / name, dictionary_pagesize_limit=1 << 26, **written)
        assert (tmp_path / name).stat().st_size < 2_000
    paths = [str(tmp_path / name) for name in ("a.parquet", "b.parquet")]
    done = subprocess.run(
        [sys.executable, "-c", READ, *paths], capture_output=True, text=True, check=True
    )
    said, megabytes = json.loads(done.stdout)
    assert said[::2] == [str(rows)] * 2
    assert megabytes < 250


def test_a_parquet_row_of_millions_of_nulls(tmp_path):
    written = {"compression": "zstd", "write_statistics": False}
    for name, count in (("a.parquet", 8_000_000), ("b.parquet", 40_000_000)):
        ends = pa.array([0, count], pa.int32())
        nulls = pa.ListArray.from_arrays(ends, pa.nulls(count, pa.int8()))
        pq.write_table(pa.table({"a": nulls}), tmp_path / name, **written)
        assert (tmp_path / name).stat().st_size < 2_000
    paths = [str(tmp_path / name) for name in ("a.parquet", "b.parquet")]
    done = subprocess.run(
        [sys.executable, "-c", READ, *paths], capture_output=True, text=True, check=True
    )
    said, megabytes = json.loads(done.stdout)
    assert "a row is longer than 32 MiB on average" in said[0]
    assert re.search("column 'a.list.element' unpacks from [0-9]+ bytes to 319,999,992", said[2])
    assert megabytes < 100


@pytest.fixture
def batch_sizes(monkeypatch):
    """Rows of each batch that a Parquet file is asked for, as they come."""
    sizes = []
    read = pq.ParquetFile.iter_batches

    def counted(self, batch_size, **settings):
        sizes.append(batch_size)
        return read(self, batch_size=batch_size, **settings)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    return sizes


def test_ordinary_texts_of_a_dictionary_are_read_a_thousand_at_a_time(tmp_path, batch_sizes):
    rows = [chr(97 + i % 26) * (1 + i % 20_000) for i in range(3000)]
    pq.write_table(pa.table({"a": rows}), tmp_path / "a.parquet")
    assert [r.record["a"] for r in open_source(tmp_path / "a.parquet").records()] == rows
    assert batch_sizes == [1, 1024]  # a look at the dictionary, and the reading


def test_wide_parquet_rows_are_unpacked_a_few_at_a_time(tmp_path, batch_sizes):
    rows = [chr(97 + i) * (8 << 20) for i in range(6)]
    pq.write_table(pa.table({"a": rows}), tmp_path / "a.parquet", use_dictionary=False)
    assert [r.record["a"][0] for r in open_source(tmp_path / "a.parquet").records()] == [*"abcdef"]
    assert batch_sizes[-1] in (3, 4)
    pq.write_table(pa.table({"a": ["x" * (ROW_LIMIT + 1)]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="a row is longer than 32 MiB on average"):
        list(open_source(tmp_path / "b.parquet").records())


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_a_million_brackets(tmp_path, opening):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n' + opening * 1_000_000 + '\n{"a": 2}\n')
    first, deep, last = open_source(tmp_path / "a.jsonl").records()
    assert (first.record, last.record) == ({"a": 1}, {"a": 2})
    assert deep.problem == "lists and objects are nested too deeply"
    (tmp_path / "a.json").write_text("[" + opening * 1_000_000)
    with pytest.raises(DataError, match="line 1: broken JSON: lists and objects are nested"):
        list(open_source(tmp_path / "a.json").records())


def test_a_row_of_a_million_characters_is_an_ordinary_row(tmp_path):
    row = json.dumps({"a": "x" * 1_000_000})
    (tmp_path / "a.jsonl").write_text(row + "\n")
    (tmp_path / "a.json").write_text(f"[{row}, {row}]")
    (tmp_path / "a.csv").write_text("a\n" + "x" * 1_000_000 + "\n")
    for name, rows in (("a.jsonl", 1), ("a.json", 2), ("a.csv", 1)):
        assert [len(r.record["a"]) for r in open_source(tmp_path / name).records()] == [
            1_000_000
        ] * rows


def test_a_hundred_thousand_columns(tmp_path):
    """Looked at once each: were each held against all others, this would take minutes."""
    names = [f"c{i}" for i in range(100_000)]
    header = ",".join(names)
    (tmp_path / "a.csv").write_text(f"{header}\n{header}\n")
    (tmp_path / "b.csv").write_text(f"{header},c99999\n")
    keys = ", ".join(f'"{name}": 1' for name in (*names, names[-1]))
    (tmp_path / "a.jsonl").write_text(f"{{{keys}}}\n")
    start = time.process_time()
    [row] = open_source(tmp_path / "a.csv").records()
    assert list(row.record) == names
    assert write_records(tmp_path / "c.csv", [row], format="csv") == 1
    with pytest.raises(DataError, match="column 'c99999' appears more than once"):
        list(open_source(tmp_path / "b.csv").records())
    [twice] = open_source(tmp_path / "a.jsonl").records()
    assert twice.problem == "broken JSON: the key 'c99999' appears more than once"
    with pytest.raises(DataError) as error:
        resolve_options([row.record], RecordOptions(), name="a.csv")
    assert "c48, c49, … (100,000 in all)." in str(error.value)
    with pytest.raises(DataError, match=r"It has: .* \(100,000 in all\)"):
        resolve_options([row.record], RecordOptions(text_column="text"))
    assert time.process_time() - start < 20
