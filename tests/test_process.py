"""The real command in a real process: stopped, killed, without room, piped."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STAFF = [sys.executable, "-m", "staff"]
ROWS = 60


@pytest.fixture(scope="module")
def command(e2e_file, family):
    """`staff select` on a few rows; add ``--out``."""
    small, target = family
    return [
        "select", str(e2e_file(ROWS)), "--small", small, "--target", target, "--keep", "0.2",
        "--prompt-column", "mr", "--response-column", "ref", "--regions", "4",
        "--verify-per-region", "3", "--epochs", "1", "--checkpoint-seconds", "0",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(command, finish, tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "x"
    done = finish(*command, "--out", str(out))
    assert "\nread: 60 rows in" in done.stderr  # plain progress lines, no control characters
    assert "\x1b" not in done.stderr + done.stdout
    assert "The target scored" in done.stdout
    return out


def stop_in(stage: str, arguments: list[str], how: signal.Signals) -> tuple[int, str]:
    """Start `staff`, send a signal once the stage has begun; (return code, its last words)."""
    process = subprocess.Popen(
        [*STAFF, *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if line.startswith(stage) and "…" in line:
            time.sleep(0.3)
            process.send_signal(how)
            break
    said += process.stderr.read()
    return process.wait(timeout=120), said


@pytest.mark.parametrize(
    ("stage", "how", "code"),
    [
        ("fine-tune small", signal.SIGTERM, 143),
        # make test-crash kills at many more points.
        pytest.param("fine-tune small", signal.SIGKILL, -signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("score small", signal.SIGKILL, -signal.SIGKILL, marks=pytest.mark.slow),
        ("verify on target", signal.SIGINT, 130),
    ],
)
def test_the_same_command_goes_on(command, whole, finish, tmp_path, stage, how, code):
    out = tmp_path / "x"
    arguments = [*command, "--out", str(out)]
    returned, said = stop_in(stage, arguments, how)
    assert returned == code, said
    assert not (out / "manifest.json").exists()
    if how != signal.SIGKILL:
        assert (
            "run the same command again; it resumes from the last checkpoint or finished stage"
            in said
        )
        assert "Traceback" not in said
    done = finish(*arguments)
    manifest = json.loads((out / "manifest.json").read_text())
    reused = {s["name"]: s["reused"] for s in manifest["stages"]}
    assert reused["fine-tune small"] is (stage != "fine-tune small")
    assert "rows and tokens of an earlier run are reused" in done.stderr
    assert not (out / "tokens").exists()
    assert not list(out.glob(".*partial"))
    for name in ("coreset-0.2.jsonl", "selection.parquet", "adapter/adapter_model.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow  # twenty seconds each; the test above stops a verification in one round
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_verification_in_rounds_goes_on(command, finish, tmp_path, how):
    """Stopped after its first parts: what is there leads to the same rows, and is not done again."""
    auto = ["--verify-per-region", "auto", "--verify-tolerance", "0.004", "--shard-rows", "3"]
    auto += ["--skip-finetune", "--batch-tokens", "64"]
    at = command.index("--verify-per-region")
    arguments = [*command[:at], *command[at + 2 :], *auto, "--out"]
    whole, out = tmp_path / "whole", tmp_path / "x"
    finish(*arguments, str(whole))
    rounds = json.loads((whole / "manifest.json").read_text())["verification"]["rounds"]
    assert len(rounds) > 1
    process = subprocess.Popen(
        [*STAFF, *arguments, str(out)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    second = out / "scores" / "target" / "part-00002.parquet"
    while process.poll() is None and not second.exists():
        time.sleep(0.001)
    process.send_signal(how)
    assert process.wait(timeout=120) in (130, -signal.SIGKILL)
    assert not (out / "manifest.json").exists()
    inodes = {path: path.stat().st_ino for path in out.glob("scores/*/part-*.parquet")}
    finish(*arguments, str(out))
    assert {path: path.stat().st_ino for path in inodes} == inodes
    found = [path.relative_to(whole) for path in whole.glob("scores/target/*.parquet")]
    assert len(found) > 3
    for name in ("coreset-0.2.jsonl", "selection.parquet", *found):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert json.loads((out / "manifest.json").read_text())["verification"]["rounds"] == rounds


@pytest.mark.slow
def test_scoring_that_was_stopped_does_not_read_again(e2e_file, family, tmp_path):
    data, out = e2e_file(), tmp_path / "s"
    command = ["score", str(data), "--model", family[1], "--out", str(out)]
    columns = ["--prompt-column", "mr", "--response-column", "ref"]
    returned, said = stop_in("score", [*command, *columns], signal.SIGINT)
    assert returned == 130, said
    assert "run the same command again" in said
    assert not (out / "manifest.json").exists()
    tokens = (out / "tokens" / "tokens.arrow").stat().st_ino
    done = subprocess.Popen([*STAFF, *command, *columns], stderr=subprocess.PIPE, text=True)
    lines = []
    for line in done.stderr:
        lines.append(line)
        if line.startswith("score") and "…" in line:
            assert (out / "tokens" / "tokens.arrow").stat().st_ino == tokens
    assert done.wait(timeout=120) == 0, lines
    assert "rows and tokens of an earlier run are reused" in "".join(lines)
    assert not (out / "tokens").exists()


@pytest.mark.slow
def test_fine_tuning_that_is_killed_does_not_read_again(e2e_file, family, finish, tmp_path):
    data = e2e_file(ROWS, tmp_path / "train.jsonl")
    command = ["finetune", str(data), "--model", family[0], "--out", str(tmp_path / "a")]
    command += ["--prompt-column", "mr", "--response-column", "ref", "--epochs", "2"]
    returned, said = stop_in("fine-tune", command, signal.SIGKILL)
    assert returned == -signal.SIGKILL, said
    assert (tmp_path / ".a.tokens").is_dir()
    done = finish(*command)
    assert "rows and tokens of an earlier run are reused" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "train.jsonl"]


def test_a_run_replays_from_its_own_config(whole, finish):
    again, made = ("select", "--config", str(whole / "config.yaml")), whole / "manifest.json"
    before = made.stat()
    done = finish(*again)
    assert f"already finished: {whole} was made from the same inputs" in done.stderr
    assert "The target scored" in done.stdout
    assert (made.stat().st_ino, made.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    (whole / "report.html").unlink()
    finish(*again)
    manifest = json.loads((whole / "manifest.json").read_text())
    assert [s["reused"] for s in manifest["stages"]] == [
        False, False, True, True, True, False, False
    ]  # fmt: skip


def test_why_answers_for_every_row(whole, finish):
    for row in (0, ROWS // 2, ROWS - 1):
        done = finish("why", str(whole), "--row", str(row))
        assert f"Row {row} of" in done.stdout
        assert "in the coreset of 12 rows" in done.stdout


def test_no_room_for_files(command, tmp_path):
    """A limit on the size of files stops the run in the middle of writing."""
    out = tmp_path / "x"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = subprocess.run(
        [*STAFF, *command, "--out", str(out)], capture_output=True, text=True, check=False,
        preexec_fn=limit,
    )  # fmt: skip
    assert done.returncode not in (0, 70), done.stderr
    assert "Traceback" not in done.stderr
    assert "the disk is full" in done.stderr
    assert not (out / "manifest.json").exists()
    assert not list(out.rglob("*.part*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs takes root")
def test_a_full_disk(command, staff_warm, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)],
        capture_output=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        done = subprocess.run(
            [*staff_warm, *command, "--out", str(disk / "x")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode not in (0, 70), done.stderr
        assert "Traceback" not in done.stderr
        assert "disk is full" in done.stderr or "No space left" in done.stderr
        assert not list(Path(disk).rglob("manifest.json"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
