"""The real command in a real process, killed twice in the middle of cells."""

import json
import shutil
import signal
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

ROWS, TEST_ROWS = 24, 60


@pytest.fixture
def command(tmp_path, e2e_rows, family):
    """`staff compare` of two methods on a few rows; add ``--out``."""
    paths = [tmp_path / name for name in ("train.jsonl", "test.jsonl")]
    for path, lines in zip(paths, (e2e_rows[:ROWS], e2e_rows[-TEST_ROWS:]), strict=True):
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    small, _ = family
    return [
        "compare", str(paths[0]), "--test", str(paths[1]),
        "--small", small, "--target", small, "--keep", "0.5", "--seeds", "1", "--epochs", "2",
        "--metrics", "loss", "exact", "--max-new-tokens", "12", "--regions", "3",
        "--verify-per-region", "2", "--prompt-column", "mr", "--response-column", "ref",
    ]  # fmt: skip


def kill_in(cell, stage, arguments):
    """Start the command, kill it once a stage of a cell has begun; returns what it said."""
    process = subprocess.Popen(
        [sys.executable, "-m", "staff", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    said, inside = "", False
    for line in process.stderr:
        said += line
        inside = inside or (line.startswith("cell ") and cell in line)
        if inside and line.startswith(stage) and "…" in line:
            process.kill()
            break
    said += process.stderr.read()
    assert process.wait(timeout=300) == -signal.SIGKILL, said
    return said


def test_only_what_a_kill_left_undone_is_done_again(command, finish, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    finish(*command, "--out", str(whole))
    again = [*command, "--out", str(out)]

    kill_in("staff-0.5-seed0", "fine-tune", again)
    cells = out / "cells"
    assert {path.parent.name for path in cells.glob("*/cell.json")} == {"untuned", "full-seed0"}
    assert not (out / "compare.json").exists()

    said = kill_in("random-0.5-seed0", "test loss", again)
    assert "cell 1 of 4: untuned, reused" in said
    assert "cell 2 of 4: full-seed0, reused" in said
    assert "fine-tune small" not in said  # the selections were done
    assert "write" not in said
    adapter = (cells / "random-0.5-seed0" / "adapter" / "adapter_model.safetensors").stat()

    done = finish(*again)
    assert done.stderr.count(", reused") == 3
    assert "fine-tune" not in done.stderr
    last = (cells / "random-0.5-seed0" / "adapter" / "adapter_model.safetensors").stat()
    assert (last.st_ino, last.st_mtime_ns) == (adapter.st_ino, adapter.st_mtime_ns)
    assert "staff " in done.stdout
    for name in ("untuned", "full-seed0", "staff-0.5-seed0", "random-0.5-seed0"):
        items = [folder / "cells" / name / "items.parquet" for folder in (whole, out)]
        assert items[0].read_bytes() == items[1].read_bytes()
    found = [json.loads((folder / "compare.json").read_text()) for folder in (whole, out)]
    fingerprints = [[cell["made_from"] for cell in one["cells"]] for one in found]
    assert fingerprints[0] == fingerprints[1]
    tables = [pq.read_table(folder / "results.parquet") for folder in (whole, out)]
    # A byte copy of a method's coreset has that method's values; nothing else is done again.
    copy = shutil.copy(whole / "seed-0" / "random" / "coreset-0.5.jsonl", tmp_path / "copy.jsonl")
    done = finish(*command, "--own", f"copy={copy}", "--out", str(whole))
    assert done.stderr.count(", reused") == 4
    items = [whole / "cells" / f"{name}-0.5-seed0" / "items.parquet" for name in ("random", "copy")]
    assert items[0].read_bytes() == items[1].read_bytes()
    values = {
        c["method"]: c["values"] for c in json.loads((whole / "compare.json").read_text())["cells"]
    }
    assert values["copy"] == values["random"] != values["untuned"]
    assert "fine-tune small" not in done.stderr
    timeless = [
        name for name in tables[0].column_names if "seconds" not in name and "to_" not in name
    ]
    assert tables[0].select(timeless).equals(tables[1].select(timeless))
