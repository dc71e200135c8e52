"""What is written is whole, and unchanged."""

import datetime
import decimal
import errno
import json
import os
import uuid

import pytest

from staff.data.files import open_source
from staff.data.raw import RawRecord
from staff.data.writers import replacing, umask, write_records
from staff.errors import ConfigError, DataError, StaffError


def test_jsonl_lines_are_copied_byte_for_byte(tmp_path):
    lines = [
        b'{"b":1.0,  "a": "\\u00e9\xc3\xa9"}',
        b'{"n": 1e5, "n": 2}\r',
        '{"x": "a\u2028b"}'.encode(),
        b' {"s": "\\ud800"} ',
    ]
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(lines))
    assert write_records(tmp_path / "out.jsonl", open_source(path).records()) == 4
    assert (tmp_path / "out.jsonl").read_bytes() == b"\n".join(lines) + b"\n"


def test_nothing_is_left_of_a_failure(tmp_path):
    def rows():
        yield RawRecord(0, 1, {"a": "x"})
        raise KeyboardInterrupt

    for kind in ("jsonl", "json", "csv", "parquet"):
        with pytest.raises(KeyboardInterrupt):
            write_records(tmp_path / f"out.{kind}", rows(), format=kind)
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_survives_a_failure(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")

    def stopped():
        with replacing(path) as part:
            part.write_text("new")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        stopped()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_full_disk_is_a_plain_error(tmp_path, error):
    with pytest.raises(StaffError) as caught, replacing(tmp_path / "x"):
        raise error
    assert str(caught.value) == (
        f"the disk is full while writing {tmp_path / 'x'}: "
        "free some space and run the same command again"
    )
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_of_the_system_is_a_plain_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StaffError, match=r"cannot write .*x: .*") as caught:
        write_records(tmp_path / "file" / "x", [])
    assert caught.value.exit_code == 1


def test_temporary_files_are_hidden_and_have_one_ending(tmp_path):
    def rows():
        for row in range(3):
            yield RawRecord(row, None, {"a": row})
            seen.update(path.name for path in tmp_path.iterdir())

    seen = set()
    write_records(tmp_path / "x.parquet", rows(), format="parquet")
    assert len(seen) == 2  # the file, and the folder of its batches
    assert all(name.startswith(".x.parquet.") and name.endswith(".part") for name in seen)


def test_tables_with_changing_columns(tmp_path):
    rows = [
        RawRecord(i, None, {"a": i} if i < 1500 else {"a": 0.5, "b": ["x"]}) for i in range(2000)
    ]
    write_records(tmp_path / "x.parquet", rows, format="parquet")
    found = [r.record for r in open_source(tmp_path / "x.parquet").records()]
    assert found[0] == {"a": 0.0, "b": None}
    assert found[-1] == {"a": 0.5, "b": ["x"]}
    with pytest.raises(DataError, match="column 'b' that the first row does not have"):
        write_records(tmp_path / "x.csv", rows, format="csv")
    for second in ("x", 10**30):  # neither beside a whole number of 64 bits
        mixed = [RawRecord(0, None, {"a": 1}), RawRecord(1, None, {"a": second})]
        with pytest.raises(DataError, match="do not fit a Parquet file"):
            write_records(tmp_path / "y.parquet", mixed, format="parquet")
        assert not (tmp_path / "y.parquet").exists()


def test_lists_too_deep_for_parquet(tmp_path):
    """Arrow writes them, and cannot read them again."""
    (tmp_path / "a.jsonl").write_text('{"a": ' + "[" * 60 + "]" * 60 + "}\n")
    with pytest.raises(DataError, match=r"do not fit a Parquet file \(Parquet schema too deeply"):
        write_records(
            tmp_path / "a.parquet", open_source(tmp_path / "a.jsonl").records(), format="parquet"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_line_ends_quotes_and_separators_come_back(tmp_path, kind):
    texts = ["a\rb", "\r", "a\nb", "a\r\nb", 'say "x", then', "a,b", "\u2028", " edge "]
    records = [{"pro\rmpt": text, "response": "y"} for text in texts]
    rows = [RawRecord(i, None, record) for i, record in enumerate(records)]
    write_records(tmp_path / f"x.{kind}", rows, format=kind)
    assert [r.record for r in open_source(tmp_path / f"x.{kind}").records()] == records


def test_no_rows(tmp_path):
    for kind in ("jsonl", "json", "csv", "parquet"):
        assert write_records(tmp_path / f"x.{kind}", [], format=kind) == 0
        assert (tmp_path / f"x.{kind}").exists()


def test_values_json_does_not_know(tmp_path):
    record = {
        "when": datetime.datetime(2024, 7, 26, 1, 2),
        "price": decimal.Decimal("1.10"),
        "key": uuid.UUID(int=7),
        "image": b"\0\1",
        "half": "\ud800é",
    }
    write_records(tmp_path / "x.jsonl", [RawRecord(0, None, record)])
    assert json.loads((tmp_path / "x.jsonl").read_text()) == {
        "when": "2024-07-26T01:02:00",
        "price": "1.10",
        "key": "00000000-0000-0000-0000-000000000007",
        "image": "AAE=",
        "half": "\ud800é",
    }


def test_unknown_format(tmp_path):
    with pytest.raises(ConfigError, match="unknown format 'jsnl'; did you mean 'jsonl'"):
        write_records(tmp_path / "x", [], format="jsnl")


def test_a_coreset_in_csv_gives_the_trainer_the_same_text(tmp_path):
    """What a spreadsheet would compute is not touched: it is training data, to be read by programs."""
    texts = [
        "=1+1",
        "+1",
        "-1",
        "@SUM(1)",
        "\t=1",
        "\r=1",
        "'=1",
        '=HYPERLINK("x")',
        "a\x1b[31m\n=1",
    ]
    records = [{"prompt": text, "response": f"{text}!"} for text in texts]
    rows = (RawRecord(n, None, record) for n, record in enumerate(records))
    write_records(tmp_path / "coreset.csv", rows, format="csv")
    assert [row.record for row in open_source(tmp_path / "coreset.csv").records()] == records


def test_threads_that_ask_for_the_mask_at_once_leave_it(in_threads):
    """It can be read only by setting it: one that read what another has set would set that."""

    def ask():
        for _ in range(30_000):
            found.add(umask())

    found, mask = set(), os.umask(0o027)
    try:
        in_threads(*[ask] * 4, interval=1e-6)
    finally:
        after = os.umask(mask)
    assert found == {after} == {0o027}
