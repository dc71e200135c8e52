"""Data files that cannot be read: missing, empty, broken, of another kind."""

import bz2
import gzip
import json
import lzma
from functools import partial

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


def arrow(path, *, parts=1, cut=0):
    table, sink = pa.table({"prompt": ["a"], "response": ["b"]}), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    stream = sink.getvalue().to_pybytes()
    path.write_bytes(stream[: len(stream) - cut] * parts)


def saved(path):
    from datasets import Dataset

    Dataset.from_dict({"prompt": ["a"], "response": ["b"]}).save_to_disk(path)


def saved_without_rows(path):
    saved(path)
    next(path.glob("*.arrow")).unlink()


def select(data):
    return f"staff select {data} {RANDOM}"


CASES = [
    ("a path that does not exist", {}, select("none.jsonl"), 3, 'no such file: none.jsonl; did you mean test.jsonl?'),
    ("a mistyped name", {}, select("trian.jsonl"), 3, 'no such file: trian.jsonl; did you mean train.jsonl?'),
    ("a folder that does not exist", {}, select("data/train.jsonl"), 3, 'no such file: data/train.jsonl. The folder data is not there either.'),
    ("an empty file", {"a.jsonl": ""}, select("a.jsonl"), 3, 'a.jsonl is empty. Give a file with at least one row.'),
    ("blank lines only", {"a.jsonl": "\n\n  \n"}, select("a.jsonl"), 3, 'a.jsonl holds no rows. Give a file with at least one.'),
    ("an unknown file ending", {"a.txt": GOOD}, select("a.txt"), 3, 'a.txt: unknown kind of file. Known endings: .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow, .ipc, .feather; jsonl, json, csv, tsv also with .gz or .bz2 or .xz or .zst.'),
    ("a compressed Parquet file", {"a.parquet.gz": packed("x")}, select("a.parquet.gz"), 3, 'a.parquet.gz: unknown kind of file. Known endings: .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow, .ipc, .feather; jsonl, json, csv, tsv also with .gz or .bz2 or .xz or .zst.'),
    ("UTF-16 JSON Lines", {"a.jsonl": GOOD.encode("utf-16")}, select("a.jsonl"), 3, 'a.jsonl is UTF-16 text. Save it as UTF-8.'),
    ("UTF-16 CSV", {"a.csv": "prompt,response\na,b\n".encode("utf-16")}, select("a.csv"), 3, 'a.csv is UTF-16 text. Save it as UTF-8.'),
    ("a line that is not JSON", {"a.jsonl": GOOD + "oops\n"}, select("a.jsonl"), 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): broken JSON: Expecting value at column 1\nFix them, or leave them out with --on-bad-row skip.'),
    ("a line cut short", {"a.jsonl": GOOD + GOOD[:20]}, select("a.jsonl"), 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): broken JSON: Unterminated string starting at column 17\nFix them, or leave them out with --on-bad-row skip.'),
    ("a line that is a list", {"a.jsonl": GOOD + "[1, 2]\n"}, select("a.jsonl"), 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): not a JSON object\nFix them, or leave them out with --on-bad-row skip.'),
    ("a line in Latin-1", {"a.jsonl": GOOD.encode() + '{"prompt": "é", "response": "b"}\n'.encode("latin-1")}, select("a.jsonl"), 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): invalid UTF-8 at byte 13 of the line\nFix them, or leave them out with --on-bad-row skip.'),
    ("NUL bytes where a row should be", {"a.jsonl": GOOD + "\0\0\0\0\n"}, select("a.jsonl"), 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): broken JSON: Expecting value at column 1\nFix them, or leave them out with --on-bad-row skip.'),
    ("a key twice in one row", {"a.jsonl": GOOD + '{"prompt": "a", "prompt": "c", "response": "b"}\n'}, select("a.jsonl"), 3, "a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): broken JSON: the key 'prompt' appears more than once\nFix them, or leave them out with --on-bad-row skip."),
    ("100,000 nested brackets", {"a.jsonl": GOOD + '{"prompt": ' + "[" * 100_000 + "\n"}, select("a.jsonl"), 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): lists and objects are nested too deeply\nFix them, or leave them out with --on-bad-row skip.'),
    ("more than five rows that are not JSON", {"a.jsonl": GOOD + "oops\n" * 7}, select("a.jsonl"), 3, 'a.jsonl: 7 of 8 rows cannot be used; the first 5:\n  a.jsonl, line 2 (row 1): broken JSON: Expecting value at column 1\n  a.jsonl, line 3 (row 2): broken JSON: Expecting value at column 1\n  a.jsonl, line 4 (row 3): broken JSON: Expecting value at column 1\n  a.jsonl, line 5 (row 4): broken JSON: Expecting value at column 1\n  a.jsonl, line 6 (row 5): broken JSON: Expecting value at column 1\nFix them, or leave them out with --on-bad-row skip.'),
    ("text named .gz", {"a.jsonl.gz": GOOD}, select("a.jsonl.gz"), 3, 'a.jsonl.gz is not a whole .gz file (Not a gzipped file (b\'{"\')). Fetch or compress it again.'),
    ("a .gz file cut short", {"a.jsonl.gz": packed(GOOD * 99)[:-9]}, select("a.jsonl.gz"), 3, 'a.jsonl.gz is not a whole .gz file (Compressed file ended before the end-of-stream marker was reached). Fetch or compress it again.'),
    ("text named .bz2", {"a.jsonl.bz2": GOOD}, select("a.jsonl.bz2"), 3, 'a.jsonl.bz2 is not a whole .bz2 file (Invalid data stream). Fetch or compress it again.'),
    ("text named .xz", {"a.jsonl.xz": GOOD}, select("a.jsonl.xz"), 3, 'a.jsonl.xz is not a whole .xz file (Input format not supported by decoder). Fetch or compress it again.'),
    ("a .xz file cut short", {"a.jsonl.xz": lzma.compress(GOOD.encode() * 99)[:-9]}, select("a.jsonl.xz"), 3, 'a.jsonl.xz is not a whole .xz file (Compressed file ended before the end-of-stream marker was reached). Fetch or compress it again.'),
    ("a .zst file cut short", {"a.jsonl.zst": zstandard.compress(GOOD.encode() * 99)[:-9]}, select("a.jsonl.zst"), 3, 'a.jsonl.zst is not a whole .zst file (Truncated compressed stream). Fetch or compress it again.'),
    ("a .bz2 file damaged behind its first part", {"a.jsonl.bz2": bz2.compress(GOOD.encode()) + b"oops"}, select("a.jsonl.bz2"), 3, 'a.jsonl.bz2 is not a whole .bz2 file (Invalid data stream). Fetch or compress it again.'),
    ("text named .zst", {"a.jsonl.zst": GOOD}, select("a.jsonl.zst"), 3, 'a.jsonl.zst is not a whole .zst file (ZSTD decompress failed: Unknown frame descriptor). Fetch or compress it again.'),
    ("a .gz file of 40 KB that unpacks to a row of 40 MB", {"a.jsonl.gz": packed('{"prompt": "' + " " * 40_000_000)}, select("a.jsonl.gz"), 3, 'a.jsonl.gz, line 1: a row is longer than 32 MiB. Split it, or check that the file is what its ending says.'),
    ("a .zst file of 4 KB that unpacks to a row of 40 MB", {"a.json.zst": zstandard.compress(b'[{"prompt": "' + b" " * 40_000_000)}, select("a.json.zst"), 3, 'a.json.zst, line 1: a row is longer than 32 MiB. Split it, or check that the file is what its ending says.'),
    ("a JSON array that never ends", {"a.json": "[" + GOOD + ","}, select("a.json"), 3, 'a.json, line 2: broken JSON: the file ends in the middle of its JSON array'),
    ("a JSON array with text after it", {"a.json": "[" + GOOD + "] and more"}, select("a.json"), 3, 'a.json, line 2: broken JSON: text after the end of the array'),
    ("a JSON array with a comma missing", {"a.json": "[" + GOOD + GOOD + "]"}, select("a.json"), 3, "a.json, line 2: broken JSON: expected ',' or ']' after a row"),
    ("a JSON array of numbers", {"a.json": "[1, 2, 3]"}, select("a.json"), 3, 'a.json: 3 of 3 rows cannot be used:\n  a.json, line 1 (row 0): not a JSON object\n  a.json, line 1 (row 1): not a JSON object\n  a.json, line 1 (row 2): not a JSON object\nNo usable row is left. Check the format, the columns and the maximum length.'),
    ("a JSON array named .jsonl", {"a.jsonl": "[\n" + GOOD.strip() + ",\n" + GOOD + "]\n"}, select("a.jsonl"), 3, "a.jsonl: 3 of 4 rows cannot be used:\n  a.jsonl, line 1 (row 0): broken JSON: Expecting value at column 2\n  a.jsonl, line 2 (row 1): broken JSON: Extra data at column 33\n  a.jsonl, line 4 (row 3): broken JSON: Expecting value at column 1\nThe file seems to be one JSON array: let its name end in .json."),
    ("an empty JSON array", {"a.json": "[]"}, select("a.json"), 3, 'a.json holds no rows. Give a file with at least one.'),
    ("a JSON number", {"a.json": "42"}, select("a.json"), 3, "a.json, line 1: broken JSON: expected '[', the start of a JSON array"),
    ("one JSON object over several lines", {"a.json": json.dumps({"data": [1]}, indent=1)}, select("a.json"), 3, 'a.json starts with a JSON object that does not end on its line. Make it a JSON array of objects, or one object a line.'),
    ("100,000 brackets in a JSON array", {"a.json": "[" * 100_000}, select("a.json"), 3, 'a.json, line 1: broken JSON: lists and objects are nested too deeply'),
    ("a CSV file with only a header", {"a.csv": "prompt,response\n"}, select("a.csv"), 3, 'a.csv holds no rows. Give a file with at least one.'),
    ("a quotation mark that never closes", {"a.csv": 'prompt,response\na,"b\nc,d\n'}, select("a.csv"), 3, 'a.csv, line 2: a quotation mark opens here and never closes.'),
    ("a CSV with semicolons", {"a.csv": "prompt;response\na;b\n"}, select("a.csv"), 3, "a.csv, line 1: the columns are separated by ';', not by ','. Save the file with commas as .csv, or with tabs as .tsv."),
    ("tabs in a .csv", {"a.csv": "prompt\tresponse\na\tb\n"}, select("a.csv"), 3, "a.csv, line 1: the columns are separated by '\\t', not by ','. Save the file with commas as .csv, or with tabs as .tsv."),
    ("a CSV with upright bars", {"a.csv": "prompt|response\na|b\n"}, select("a.csv"), 3, "a.csv, line 1: the columns are separated by '|', not by ','. Save the file with commas as .csv, or with tabs as .tsv."),
    ("a CSV row with a field too many", {"a.csv": "prompt,response\na,b\nc,d,e\n"}, select("a.csv"), 3, 'a.csv: 1 of 2 rows cannot be used:\n  a.csv, line 3 (row 1): 3 fields where the header has 2\nFix them, or leave them out with --on-bad-row skip.'),
    ("a CSV column twice", {"a.csv": "prompt,response,prompt\na,b,c\n"}, select("a.csv"), 3, "a.csv: column 'prompt' appears more than once. Rename one."),
    ("text named .parquet", {"a.parquet": GOOD}, select("a.parquet"), 3, 'cannot read a.parquet: Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file. Fetch or write it again.'),
    ("a Parquet file cut short", {"a.parquet": cut_parquet}, select("a.parquet"), 3, 'cannot read a.parquet: Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file. Fetch or write it again.'),
    ("a Parquet file without rows", {"a.parquet": parquet("prompt", "response", rows=0)}, select("a.parquet"), 3, 'a.parquet holds no rows. Give a file with at least one.'),
    ("a Parquet column twice", {"a.parquet": parquet("prompt", "response", "prompt")}, select("a.parquet"), 3, "a.parquet: column 'prompt' appears more than once. Rename one."),
    ("text named .arrow", {"a.arrow": GOOD}, select("a.arrow"), 3, 'cannot read a.arrow: Expected to read 1919951483 metadata bytes, but only read 29. Fetch or write it again.'),
    ("an Arrow stream whose writer was killed", {"a.arrow": partial(arrow, cut=8)}, select("a.arrow"), 3, 'cannot read a.arrow: its end is missing. Fetch or write it again.'),
    ("two Arrow streams joined end to end", {"a.arrow": partial(arrow, parts=2)}, select("a.arrow"), 3, 'a.arrow goes on behind the end of its Arrow stream: such files cannot be joined end to end. Give a folder or a pattern of several.'),
    ("a folder of other files", {"a/notes.md": "hello"}, select("a"), 3, "a holds no data files (known endings: .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow, .ipc, .feather), nor does a folder data or train in it, and it is not made by save_to_disk either. Give the folder that holds them, or a pattern in quotes."),
    ("a folder with data files in two places", {"a/sample.jsonl": GOOD, "a/train/b.jsonl": GOOD}, select("a"), 3, "a holds data files in several places: a/sample.jsonl and a/train/b.jsonl. Give a/train, or a pattern in quotes: 'a/*.jsonl'."),
    ("the folder of a run", {"a/manifest.json": "{}", "a/config.yaml": "", "a/coreset-0.1.jsonl": GOOD}, select("a"), 3, "a is the folder of a run. Give a file in it, such as a coreset."),
    ("a folder of files of two kinds", {"a/b.jsonl": GOOD, "a/c.csv": "prompt,response\na,b\n"}, select("a"), 3, "files of one data set must be of one kind, unlike a/c.csv (csv) and a/b.jsonl (jsonl). Give a pattern in quotes that matches one kind: 'a/*.jsonl'."),
    ("a folder of JSON arrays and lines", {"a/b.json": "[" + GOOD + "]", "a/c.json": GOOD}, select("a"), 3, "a/b.json is a JSON array, and a/c.json has one object a line. Make them alike."),
    ("a bad row in one of several files", {"a/b.jsonl": GOOD, "a/c.jsonl": "{\n"}, select("a"), 3, "a: 1 of 2 rows cannot be used:\n  a, c.jsonl, line 1 (row 1): broken JSON: Expecting property name enclosed in double quotes at column 2\nFix them, or leave them out with --on-bad-row skip."),
    ("a folder of other splits", {"a/valid.jsonl": GOOD, "a/test.jsonl": GOOD}, select("a"), 3, "a has no files of the split 'train', only of test, validation. Give a pattern in quotes that matches those you mean."),
    ("a pattern that matches nothing", {}, select("'a/*.jsonl'"), 3, "no file matches a/*.jsonl. Check the path."),
    ("a data set folder with a broken state.json", {"a/state.json": "{"}, select("a"), 3, 'a/state.json is broken (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)). Save the data set again.'),
    ("a data set folder whose state.json is a list", {"a/state.json": "[]"}, select("a"), 3, "a/state.json is broken ('list' object has no attribute 'get'). Save the data set again."),
    ("a data set folder without its rows", {"a": saved_without_rows}, select("a"), 3, 'a: data-00000-of-00001.arrow is missing. Save the data set again.'),
    ("a data set folder without a training split", {"a/dataset_dict.json": '{"splits": ["validation"]}'}, select("a"), 3, "a has no split 'train', only validation. Give the folder of one of them, e.g. a/validation"),
    ("a data set on the Hub, without a network", {}, select("owner/name"), 3, "owner/name is not a local file, and could not be downloaded from the Hugging Face Hub: Couldn't reach 'owner/name' on the Hub (OfflineModeIsEnabled)\nCheck the path, or the network and the name: owner/name, owner/name:config, owner/name@split, owner/name@commit (40 digits)."),
    ("a folder taken for a data set on the Hub", {"rows/train.jsonl": GOOD}, select("row"), 3, "row is not a local file, and could not be downloaded from the Hugging Face Hub: Couldn't reach 'row' on the Hub (OfflineModeIsEnabled)\nDid you mean the local rows? If not, check the path, or the network and the name: owner/name, owner/name:config, owner/name@split, owner/name@commit (40 digits)."),
    ("a split of a local folder", {"rows/train.jsonl": GOOD}, select("rows@test"), 3, "rows@test: rows is a local folder, and : and @ are for the Hub. Give the folder of the part that you mean, or a pattern in quotes that matches its files."),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_it_is_refused(case, refused):
    refused(case)
