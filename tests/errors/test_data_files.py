"""Data files that cannot be read: missing, empty, broken, of another kind."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

GROUP = "Data files"
RANDOM = "--method random --keep 0.5 --out out"
GOOD = '{"prompt": "a", "response": "b"}\n'


def packed(data):
    return gzip.compress(data.encode(), mtime=0)


def parquet(*columns, rows=2):
    def make(path):
        names = [f"{name}" for name in columns]
        pq.write_table(pa.table([["x"] * rows] * len(names), names=names), path)

    return make


def cut_parquet(path):
    parquet("prompt", "response")(path)
    path.write_bytes(path.read_bytes()[:-20])


def saved(path):
    from datasets import Dataset

    Dataset.from_dict({"prompt": ["a"], "response": ["b"]}).save_to_disk(path)


def saved_without_rows(path):
    saved(path)
    next(path.glob("*.arrow")).unlink()


def select(data):
    return f"staff select {data} {RANDOM}"


CASES = [
    ("a path that is not there", {}, select("none.jsonl"), 0, "?"),
    ("a mistyped name", {}, select("trian.jsonl"), 0, "?"),
    ("a folder that is not there", {}, select("data/train.jsonl"), 0, "?"),
    ("no byte", {"a.jsonl": ""}, select("a.jsonl"), 0, "?"),
    ("blank lines only", {"a.jsonl": "\n\n  \n"}, select("a.jsonl"), 0, "?"),
    ("an ending that is not known", {"a.txt": GOOD}, select("a.txt"), 0, "?"),
    ("a compressed kind that is compressed already", {"a.parquet.gz": packed("x")}, select("a.parquet.gz"), 0, "?"),
    ("UTF-16 JSON Lines", {"a.jsonl": GOOD.encode("utf-16")}, select("a.jsonl"), 0, "?"),
    ("UTF-16 CSV", {"a.csv": "prompt,response\na,b\n".encode("utf-16")}, select("a.csv"), 0, "?"),
    ("a line that is not JSON", {"a.jsonl": GOOD + "oops\n"}, select("a.jsonl"), 0, "?"),
    ("a line cut short", {"a.jsonl": GOOD + GOOD[:20]}, select("a.jsonl"), 0, "?"),
    ("a line that is a list", {"a.jsonl": GOOD + "[1, 2]\n"}, select("a.jsonl"), 0, "?"),
    ("a line in Latin-1", {"a.jsonl": GOOD.encode() + '{"prompt": "é", "response": "b"}\n'.encode("latin-1")}, select("a.jsonl"), 0, "?"),
    ("NUL bytes where a row should be", {"a.jsonl": GOOD + "\0\0\0\0\n"}, select("a.jsonl"), 0, "?"),
    ("a key twice in one row", {"a.jsonl": GOOD + '{"prompt": "a", "prompt": "c", "response": "b"}\n'}, select("a.jsonl"), 0, "?"),
    ("100,000 brackets, one in the other", {"a.jsonl": GOOD + '{"prompt": ' + "[" * 100_000 + "\n"}, select("a.jsonl"), 0, "?"),
    ("more than five rows that are none", {"a.jsonl": GOOD + "oops\n" * 7}, select("a.jsonl"), 0, "?"),
    ("text named .gz", {"a.jsonl.gz": GOOD}, select("a.jsonl.gz"), 0, "?"),
    ("a .gz file cut short", {"a.jsonl.gz": packed(GOOD * 99)[:-9]}, select("a.jsonl.gz"), 0, "?"),
    ("a .zst file cut short", {"a.jsonl.zst": zstandard.compress(GOOD.encode() * 99)[:-9]}, select("a.jsonl.zst"), 0, "?"),
    ("text named .zst", {"a.jsonl.zst": GOOD}, select("a.jsonl.zst"), 0, "?"),
    ("a .gz file of 40 KB that unpacks to a row of 40 MB", {"a.jsonl.gz": packed('{"prompt": "' + " " * 40_000_000)}, select("a.jsonl.gz"), 0, "?"),
    ("a .zst file of 4 KB that unpacks to a row of 40 MB", {"a.json.zst": zstandard.compress(b'[{"prompt": "' + b" " * 40_000_000)}, select("a.json.zst"), 0, "?"),
    ("a JSON array that never ends", {"a.json": "[" + GOOD + ","}, select("a.json"), 0, "?"),
    ("a JSON array with text after it", {"a.json": "[" + GOOD + "] and more"}, select("a.json"), 0, "?"),
    ("a JSON array with a comma missing", {"a.json": "[" + GOOD + GOOD + "]"}, select("a.json"), 0, "?"),
    ("a JSON array of numbers", {"a.json": "[1, 2, 3]"}, select("a.json"), 0, "?"),
    ("an empty JSON array", {"a.json": "[]"}, select("a.json"), 0, "?"),
    ("a JSON number", {"a.json": "42"}, select("a.json"), 0, "?"),
    ("one JSON object over several lines", {"a.json": json.dumps({"data": [1]}, indent=1)}, select("a.json"), 0, "?"),
    ("100,000 brackets in a JSON array", {"a.json": "[" * 100_000}, select("a.json"), 0, "?"),
    ("a CSV file with a header alone", {"a.csv": "prompt,response\n"}, select("a.csv"), 0, "?"),
    ("a quotation mark that never closes", {"a.csv": 'prompt,response\na,"b\nc,d\n'}, select("a.csv"), 0, "?"),
    ("a CSV row with a field too many", {"a.csv": "prompt,response\na,b\nc,d,e\n"}, select("a.csv"), 0, "?"),
    ("a CSV column twice", {"a.csv": "prompt,response,prompt\na,b,c\n"}, select("a.csv"), 0, "?"),
    ("text named .parquet", {"a.parquet": GOOD}, select("a.parquet"), 0, "?"),
    ("a Parquet file cut short", {"a.parquet": cut_parquet}, select("a.parquet"), 0, "?"),
    ("a Parquet file without rows", {"a.parquet": parquet("prompt", "response", rows=0)}, select("a.parquet"), 0, "?"),
    ("a Parquet column twice", {"a.parquet": parquet("prompt", "response", "prompt")}, select("a.parquet"), 0, "?"),
    ("text named .arrow", {"a.arrow": GOOD}, select("a.arrow"), 0, "?"),
    ("a folder of other files", {"a/notes.md": "hello"}, select("a"), 0, "?"),
    ("a data set folder with a broken state.json", {"a/state.json": "{"}, select("a"), 0, "?"),
    ("a data set folder whose state.json is a list", {"a/state.json": "[]"}, select("a"), 0, "?"),
    ("a data set folder without its rows", {"a": saved_without_rows}, select("a"), 0, "?"),
    ("a data set folder without a training split", {"a/dataset_dict.json": '{"splits": ["validation"]}'}, select("a"), 0, "?"),
    ("a data set on the Hub, without a network", {}, select("owner/name"), 0, "?"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_it_is_refused(case, refused):
    refused(case)
