"""Every kind of file gives the same rows, again and again."""

import bz2
import gzip
import hashlib
import json
import lzma
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from staff.data.files import open_source
from staff.data.writers import write_records
from staff.errors import DataError


def records_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


@pytest.fixture
def records(rows: Path) -> list[dict]:
    return records_of(rows / "e2e_nlg.jsonl")


def make(kind: str, records: list[dict], folder: Path) -> Path:
    """The records in a file of each kind."""
    lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode()
    table = pa.Table.from_pylist(records)
    path = folder / f"train.{kind}"
    if kind.startswith(("jsonl", "ndjson")):
        content = lines
    elif kind.startswith("json"):
        content = json.dumps(records, indent=2).encode()
    elif kind.startswith(("csv", "tsv")):
        comma = "," if kind.startswith("csv") else "\t"
        quoted = [[f'"{v}"' for v in r.values()] for r in records]
        content = "\r\n".join(comma.join(q) for q in [list(records[0]), *quoted]).encode()
    elif kind == "parquet":
        pq.write_table(table, path, row_group_size=7)
        return path
    elif kind == "arrow":
        with pa.OSFile(str(path), "wb") as f, pa.ipc.new_file(f, table.schema) as w:
            w.write_table(table, max_chunksize=7)
        return path
    elif kind == "stream.arrow":
        with pa.OSFile(str(path), "wb") as f, pa.ipc.new_stream(f, table.schema) as w:
            w.write_table(table, max_chunksize=7)
        return path
    else:
        from datasets import Dataset, DatasetDict

        dataset = Dataset.from_list(records)
        if kind == "dict":
            DatasetDict(train=dataset, test=dataset.select([0])).save_to_disk(path)
        else:
            dataset.save_to_disk(path, num_shards=3)
        return path
    if kind.endswith(".gz"):
        content = gzip.compress(content)
    if kind.endswith(".bz2"):  # in two streams, as parallel compressors write them
        content = bz2.compress(content[:99]) + bz2.compress(content[99:])
    if kind.endswith(".xz"):
        content = lzma.compress(content)
    if kind.endswith(".zst"):  # in two frames, as parallel compressors write them
        half = len(content) // 2
        compress = zstandard.ZstdCompressor().compress
        content = compress(content[:half]) + compress(content[half:])
    path.write_bytes(content)
    return path


KINDS = {
    "jsonl": "jsonl",
    "jsonl.gz": "jsonl",
    "jsonl.bz2": "jsonl",
    "jsonl.zst": "jsonl",
    "ndjson": "jsonl",
    "json": "json",
    "json.gz": "json",
    "json.xz": "json",
    "json.zst": "json",
    "csv": "csv",
    "csv.gz": "csv",
    "csv.xz": "csv",
    "tsv": "tsv",
    "tsv.zst": "tsv",
    "parquet": "parquet",
    "arrow": "arrow",
    "stream.arrow": "arrow",
    "saved": "arrow",
    "dict": "arrow",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_rows_twice(kind, records, tmp_path):
    source = open_source(make(kind, records, tmp_path))
    first, again = list(source.records()), list(source.records())
    assert [r.record for r in first] == records
    assert first == again
    assert [r.row for r in first] == list(range(len(records)))
    assert all(r.problem is None for r in first)
    assert source.kind == KINDS[kind]
    assert len(source.head(3)) == 3


@pytest.mark.parametrize("kind", ["jsonl.gz", "csv.xz", "jsonl.zst"])
def test_endings_in_capitals(kind, records, tmp_path):
    path = make(kind, records, tmp_path)
    path = path.rename(path.with_name(path.name.upper()))
    source = open_source(path)
    assert [row.record for row in source.records()] == records
    assert source.estimated_rows() is None  # it is compressed


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_lines_are_physical_lines(kind, records, tmp_path):
    path = make(kind, records, tmp_path)
    text = path.read_text("utf-8").split("\n")
    for row in open_source(path).records():
        below = "\n".join(text[row.line - 1 :])
        assert below.lstrip("\r").startswith(("{", "  {", '"name['))


def test_json_file_with_an_object_a_line(records, tmp_path):
    path = tmp_path / "train.json"
    path.write_text("\n" + "\n".join(json.dumps(r) for r in records))
    source = open_source(path)
    assert source.kind == "jsonl"
    assert [r.record for r in source.records()] == records
    assert next(source.records()).line == 2


def test_one_object_over_many_lines_is_refused(records, tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"data": records}, indent=1))
    with pytest.raises(DataError, match="does not end on its line"):
        open_source(path)


def test_hash_is_of_the_bytes(records, tmp_path):
    path = make("jsonl", records, tmp_path)
    assert open_source(path).content_hash() == hashlib.sha256(path.read_bytes()).hexdigest()
    copy = tmp_path / "other.jsonl"
    copy.write_bytes(path.read_bytes())
    assert open_source(copy).content_hash() == open_source(path).content_hash()
    copy.write_bytes(path.read_bytes() + b"\n")
    assert open_source(copy).content_hash() != open_source(path).content_hash()


def test_hash_of_a_folder_sees_every_shard(records, tmp_path):
    source = open_source(make("saved", records, tmp_path))
    before = source.content_hash()
    assert len(source.files) == 3
    shard = source.files[2]
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert source.content_hash() != before


def test_hash_of_a_folder_sees_the_order_of_its_shards(records, tmp_path):
    """Rows come in the order of state.json, whatever the files are called."""
    folder = make("saved", records, tmp_path)
    before = open_source(folder)
    first, hashed = list(before.records()), before.content_hash()
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"].reverse()
    (folder / "state.json").write_text(json.dumps(state))
    turned = open_source(folder)
    assert [r.record for r in turned.records()] != [r.record for r in first]
    assert turned.content_hash() != hashed


def test_missing_file_names_the_nearest(records, tmp_path):
    make("jsonl", records, tmp_path)
    with pytest.raises(DataError, match=r"no such file: .*trian.jsonl; did you mean .*train.jsonl"):
        open_source(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match="is not there either"):
        open_source(tmp_path / "nowhere" / "train.jsonl")


def test_empty_file(tmp_path):
    (tmp_path / "train.jsonl").touch()
    with pytest.raises(DataError, match=r"train.jsonl is empty"):
        open_source(tmp_path / "train.jsonl")


def test_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "train.jsonl")
    with pytest.raises(DataError, match=r"train.jsonl is a pipe or a device, .* to a file"):
        open_source(tmp_path / "train.jsonl")


@pytest.mark.parametrize("name", ["train.txt", "train.parquet.gz", "train"])
def test_unknown_kind(name, tmp_path):
    (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match=r"unknown kind of file.*\.jsonl"):
        open_source(tmp_path / name)


def test_folder_that_is_no_data_set(tmp_path):
    with pytest.raises(DataError, match=r"no data files \(known endings: .jsonl"):
        open_source(tmp_path)


def shards(folder, kind, records, name="part-{}"):
    """The records in three files of a folder, and as they come from it."""
    folder.mkdir(exist_ok=True, parents=True)
    for n in range(3):
        path = make(kind, records[n::3], folder)
        path.rename(folder / f"{name.format(n)}.{kind}")
    return [row for n in range(3) for row in records[n::3]]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv.gz", "parquet", "arrow"])
@pytest.mark.parametrize("way", ["folder", "data", "pattern"])
def test_several_files_are_read_in_order_as_one(kind, way, records, tmp_path):
    """A folder, one that holds them in data/ as a clone from the Hub does, or a pattern."""
    folder = tmp_path / "shards"
    rows = shards(folder / "data" if way == "data" else folder, kind, records)
    (folder / "README.md").write_text("what this is")
    (folder / "_SUCCESS.json").touch()
    source = open_source(f"{folder}/*-[0-2].{kind}" if way == "pattern" else folder)
    found = list(source.records())
    assert [row.record for row in found] == rows == [row.record for row in source.records()]
    assert [row.row for row in found] == list(range(len(rows)))
    assert {row.file for row in found} == {f"part-{n}.{kind}" for n in range(3)}
    assert found[-1].place.startswith(f"part-2.{kind}, ")
    assert source.kind == KINDS[kind]
    if kind in ("jsonl", "parquet"):
        assert source.estimated_rows() == pytest.approx(len(rows), rel=0.5)


def test_splits_are_told_by_the_names_of_files(records, tmp_path):
    train = shards(tmp_path, "jsonl", records, "train-{}")
    assert [row.record for row in open_source(tmp_path, split="test").records()] == train
    assert open_source(tmp_path).note is None
    test = shards(tmp_path, "jsonl", records[:3], "my_test.{}")
    source = open_source(tmp_path)
    assert [row.record for row in source.records()] == train
    assert source.note == "split train; not read: test"
    both = open_source(f"{tmp_path}/*.jsonl")
    assert both.note == "files of several splits are read: test, train"
    assert open_source(f"{tmp_path}/train-*.jsonl").note is None
    assert [row.record for row in open_source(tmp_path, split="test").records()] == test
    with pytest.raises(DataError, match="no files of the split 'validation', only of test, train"):
        open_source(tmp_path, split="validation")


def test_folders_that_are_not_read_are_told_of(records, tmp_path):
    shards(tmp_path, "jsonl", records)
    for name in ("day=2", "day=1", ".cache", "_old"):
        (tmp_path / name).mkdir()
        make("jsonl", records, tmp_path / name)
    (tmp_path / "pictures").mkdir()
    said = "left out: data files in the folders day=1, day=2"
    assert open_source(tmp_path).note == said
    assert open_source(f"{tmp_path}/*.jsonl").note is None
    (tmp_path / "test.jsonl").write_text("{}\n")
    (tmp_path / "train.jsonl").write_text("{}\n")
    assert open_source(tmp_path).note == f"split train; not read: test; {said}"


def test_files_without_bytes_are_no_rows(records, tmp_path):
    rows = shards(tmp_path, "jsonl", records)
    (tmp_path / "part-00.jsonl").touch()
    assert [row.record for row in open_source(tmp_path).records()] == rows
    with pytest.raises(DataError, match="every file is empty"):
        open_source(str(tmp_path / "part-00*"))


def test_a_link_out_of_a_folder_is_refused_and_one_that_a_pattern_names_is_not(records, tmp_path):
    """The Hub's own cache is a folder of links."""
    make("jsonl", records, tmp_path)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.jsonl").symlink_to(tmp_path / "train.jsonl")
    with pytest.raises(DataError, match="a link that leads out of"):
        open_source(tmp_path / "links")
    assert len(open_source(str(tmp_path / "links" / "*.jsonl")).head()) == len(records)


def test_a_link_to_nothing_is_refused_and_not_passed_over(records, tmp_path):
    """As git-annex leaves of a file that was not fetched: its rows would be missed."""
    shards(tmp_path, "jsonl", records)
    (tmp_path / "part-3.jsonl").symlink_to("gone")
    for place in (tmp_path, f"{tmp_path}/*.jsonl"):
        with pytest.raises(DataError, match="is a link to a file that is not there"):
            open_source(place)


def test_a_pattern_that_is_advised_matches_brackets_as_they_are(records, tmp_path):
    folder = tmp_path / "v[1]"
    shards(folder, "jsonl", records)
    make("csv", records, folder)
    with pytest.raises(DataError) as told:
        open_source(folder)
    pattern = str(told.value).split("'")[-2]
    assert len(open_source(pattern).files) == 3


def test_folder_without_the_split(records, tmp_path):
    path = make("dict", records, tmp_path)
    source = open_source(path, split="test")
    assert len(list(source.records())) == 1
    assert source.note == "split test; not read: train"
    assert open_source(path / "test").note is None
    with pytest.raises(DataError, match="no split 'validation', only train, test"):
        open_source(path, split="validation")


def test_folder_with_a_missing_shard(records, tmp_path):
    source = open_source(make("saved", records, tmp_path))
    source.files[1].unlink()
    with pytest.raises(DataError, match="is missing"):
        open_source(tmp_path / "train.saved")


def test_unreadable_file_is_a_plain_error(tmp_path):
    path = tmp_path / "train.jsonl"
    path.mkdir()
    with pytest.raises(DataError):
        open_source(path)


def test_hub_id_offline_is_a_plain_error():
    source = open_source("someone/some-data:main")
    assert source.kind == "hub"
    with pytest.raises(DataError, match="not be downloaded from the Hugging Face Hub"):
        next(source.records())


def test_hub_rows_come_from_datasets(hub_data, records):
    """What `datasets` downloaded earlier, as it lies in its cache."""
    commit = hub_data(records)
    source = open_source("someone/some-data:main")
    assert [r.record for r in source.records()] == records
    assert [r.record for r in source.records()] == records
    assert source.content_hash() == source.content_hash()
    assert source.commit() == commit
    assert [r.record for r in open_source("someone/some-data@test").records()] == records[:2]
    assert open_source("someone/some-data", split="test").content_hash() != source.content_hash()


def test_a_hub_data_set_is_pinned_by_its_commit(hub_data, records):
    commit, other = hub_data(records), "f" * 40
    for name in (f"someone/some-data:main@{commit}", f"someone/some-data@{commit}@train"):
        source = open_source(name)
        assert [r.record for r in source.records()] == records
        assert source.commit() == commit
    for source in (
        open_source(f"someone/some-data@train@{other}"),
        open_source("someone/some-data", revision=other),
    ):
        with pytest.raises(DataError, match=f"requested at revision {other}, but .*is {commit}"):
            next(source.records())
        with pytest.raises(DataError, match="requested at revision"):
            source.commit()
    with pytest.raises(DataError, match="two splits or two commits"):
        open_source("someone/some-data@train@test")


@pytest.mark.parametrize(("name", "revision"), [("a/b", None), (f"a/b@{'0' * 40}", "0" * 40)])
def test_the_commit_is_what_the_hub_is_asked_for(monkeypatch, name, revision):
    """Only the download is another's: which revision does `datasets` get to hear?"""
    import datasets

    asked = []

    def download(path, config=None, *, revision=None):
        asked.append((path, config, revision))
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset_builder", download)
    with pytest.raises(DataError, match="not be downloaded"):
        next(open_source(name).records())
    assert asked == [("a/b", None, revision)]


def test_a_local_file_has_no_commit(records, tmp_path):
    assert open_source(make("jsonl", records, tmp_path)).commit() is None


def test_written_rows_come_back(records, tmp_path):
    source = open_source(make("jsonl", records, tmp_path))
    for kind in ("jsonl", "json", "csv", "parquet"):
        out = tmp_path / f"coreset.{kind}"
        assert write_records(out, source.records(), format=kind) == len(records)
        assert [r.record for r in open_source(out).records()] == records
