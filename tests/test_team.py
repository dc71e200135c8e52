"""Several real processes at one run, as torchrun starts them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

PROCESSES = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
STAFF = ["-m", "staff"]
OUTPUTS = ("coreset-0.2.jsonl", "selection.parquet")


@pytest.fixture(scope="module")
def data(tmp_path_factory, e2e_rows):
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    path.write_text("".join(f"{line}\n" for line in e2e_rows[:79]), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def select(data, family):
    """`staff select` of the data; add ``--out``."""
    small, target = family
    return [
        *STAFF, "select", data, "--small", small, "--target", target, "--keep", "0.2",
        "--prompt-column", "mr", "--response-column", "ref", "--regions", "4", "--cut", "0",
        "--verify-per-region", "4", "--skip-finetune", "--shard-rows", "8", "--dtype", "float32",
    ]  # fmt: skip


def scores(out):
    return {p.relative_to(out): p.read_bytes() for p in sorted(out.glob("scores/*/*.parquet"))}


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
def test_two_processes_leave_what_one_does_and_a_killed_one_is_told_of(select, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run([sys.executable, *select, "--out", str(one)], check=True, capture_output=True)

    process = subprocess.Popen(
        [*PROCESSES, *select, "--out", str(two)], stderr=subprocess.PIPE, text=True
    )
    said = ""
    for line in process.stderr:
        said += line
        if line.startswith("score small") and "…" in line:
            os.kill(child_of_rank_one(process.pid), signal.SIGKILL)
            break
    said += process.stderr.read()
    assert process.wait(timeout=120) != 0
    assert "run the same command again" in said
    assert not (two / "manifest.json").exists()
    kept = {p: p.stat().st_ino for p in two.glob("scores/small/*.parquet")}

    done = subprocess.run(
        [*PROCESSES, *select, "--out", str(two)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {p: p.stat().st_ino for p in kept} == kept
    assert done.stdout.count("The target scored") == 1  # one of them tells
    assert scores(two) == scores(one)
    for name in OUTPUTS:
        assert (two / name).read_bytes() == (one / name).read_bytes()
    manifest = json.loads((two / "manifest.json").read_text())
    [verified] = [s for s in manifest["stages"] if s["name"] == "verify on target"]
    assert not verified["reused"]


def test_two_processes_fine_tune_as_one_does(select, tmp_path):
    """Three rows a batch, and one in the last: then one process has none."""
    tuned = [part for part in select if part != "--skip-finetune"]
    tuned += ["--epochs", "1", "--batch-size", "3", "--learning-rate", "0.01"]
    found = {}
    for name, start in (("one", [sys.executable]), ("two", PROCESSES)):
        out = tmp_path / name
        subprocess.run([*start, *tuned, "--out", str(out)], check=True, capture_output=True)
        columns = pq.read_table(out / "selection.parquet")
        found[name] = np.array(columns["score_small"])
        losses = (out / "adapter" / "loss.jsonl").read_text().splitlines()
        found[f"{name} losses"] = np.array([json.loads(line)["loss"] for line in losses])
    assert len(found["one losses"]) == 27  # 79 rows, three a step
    np.testing.assert_allclose(found["two losses"], found["one losses"], atol=2e-4)
    np.testing.assert_allclose(found["two"], found["one"], rtol=1e-3)
    assert (
        np.corrcoef(found["one"].argsort().argsort(), found["two"].argsort().argsort())[0, 1] > 0.99
    )


def test_rows_that_come_in_rounds_are_shared_too(select, tmp_path):
    command = list(select)
    for flag, value in (("--verify-per-region", "auto"), ("--shard-rows", "3")):
        command[command.index(flag) + 1] = value
    command += ["--verify-tolerance", "0.004"]
    one, two = tmp_path / "one", tmp_path / "two"
    for start, out in (([sys.executable], one), (PROCESSES, two)):
        subprocess.run([*start, *command, "--out", str(out)], check=True, capture_output=True)
    rounds = json.loads((two / "manifest.json").read_text())["verification"]["rounds"]
    assert len(rounds) > 1
    assert scores(two) == scores(one)
    for name in OUTPUTS:
        assert (two / name).read_bytes() == (one / name).read_bytes()


def child_of_rank_one(parent):
    """The process whose environment says that it is rank 1."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    told = {pid: Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in children}
    [found] = [int(pid) for pid, variables in told.items() if b"RANK=1" in variables]
    return found


def test_a_fault_in_one_process_ends_all_with_its_words(select, data, tmp_path):
    bad = [part if part != data else str(tmp_path / "none.jsonl") for part in select]
    done = subprocess.run(
        [*PROCESSES, *bad, "--out", str(tmp_path / "x")],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode != 0
    assert "error: no such file" in done.stderr


def test_other_commands_say_that_they_work_alone(data, family, tmp_path, monkeypatch, capsys):
    from staff.cli.main import main

    monkeypatch.setenv("WORLD_SIZE", "2")
    command = ["finetune", data, "--model", family[0], "--out", str(tmp_path / "x")]
    assert main(command) == 2
    assert "staff finetune works in one process: start it without torchrun" in (
        capsys.readouterr().err
    )
