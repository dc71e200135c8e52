import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import staff
from staff.cli.main import build_app, main
from staff.errors import DataError

PYTHON = [sys.executable, "-c"]
RUN = "import sys; from staff.cli.main import main; sys.exit(main(sys.argv[1:]))"


def test_help_says_how_to_start_and_what_exit_codes_mean(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for verb in ("select", "score", "why", "finetune", "evaluate", "report", "export", "demo"):
        assert f" {verb} " in text
    for words in ("Start here:", "2 usage or settings", "130 stopped", "--install-completion"):
        assert words in text
    assert main([]) == 0  # no command: the same help


@pytest.mark.parametrize(
    "verb",
    [
        *("select", "score", "why", "finetune", "evaluate", "report", "export", "check-model"),
        *("plan", "families", "demo", "compare", "cache"),
    ],
)
def test_every_verb_has_help_with_examples(capsys, monkeypatch, verb):
    monkeypatch.setenv("COLUMNS", "60")
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Usage: staff {verb}" in text
    examples = text.partition("Examples:")[2]
    assert f"  staff {verb}" in examples
    # Indented, hence not wrapped: what is copied from a narrow terminal works.
    assert all(line.startswith("  ") for line in examples.split("\n") if line)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == staff.__version__


def test_closed_streams_change_no_exit_code(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["--version"]) == 0
    assert main(["report", str(tmp_path)]) == 5


COMPLETE = """
source /dev/stdin
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_staff
printf "%s\\n" "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    "typed",
    [
        *("select tra", "select d --small tra", "select d --config tra", "select d --out tra"),
        *("why tra", "report tra", "export tra", "cache ls tra", "demo --out tra"),
    ],
)
def test_completion_offers_files(data, typed):
    script = build_app().generate_completion(shell="bash")
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", "staff", *typed.split()],
        **{"input": script, "capture_output": True, "text": True, "cwd": data.parent},
    )
    assert done.stdout.split() == [data.name]


def test_paths_are_taken_as_they_are_spelt(capsys):
    paths = {"data": "./a//b/../c.jsonl", "small": "./S/", "target": "../T/", "out": "o/./"}
    given = [part for name, path in paths.items() for part in (f"--{name}", path)]
    assert main(["select", *given, "--keep", "0.1", "--print-config"]) == 0
    told = capsys.readouterr().out
    assert all(f"\n{name}: {path}\n" in told for name, path in paths.items())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_the_flags_of_every_verb(shell):
    script = build_app().generate_completion(shell=shell)
    for words in ("verify-per-region", "last-value-lora", "max-new-tokens"):
        assert words in script


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (DataError("train.jsonl, line 3: broken"), 3, "error: train.jsonl, line 3: broken\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/x/a"),
            1,
            "the disk is full while writing runs/x/a",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "the disk is full: free some space"),
        (
            PermissionError(errno.EACCES, "Permission denied", "runs"),
            1,
            "error: runs: Permission denied\n",
        ),
        (
            RuntimeError("I/O error: No space left on device (os error 28)"),
            1,
            "the disk is full: free",
        ),
        (
            OSError(errno.EFBIG, "File too large", "runs/x/a"),
            1,
            "the disk is full while writing runs/x/a: free some space and run the same command",
        ),
        (MemoryError(), 1, "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 1, "error: out of memory:"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), 1, "error: out of memory:"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), 1, "error: out of memory:"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            1,
            "out of memory: lower --batch-tokens (finetune: --micro-batch-size)",
        ),
        (RuntimeError("shapes do not fit"), 70, "internal error, RuntimeError"),
        (BrokenPipeError(), 1, "stopped: the output was closed: run the same command"),
        (
            ZeroDivisionError("division\nby zero"),
            70,
            "internal error, ZeroDivisionError: division\n--debug shows",
        ),
        (
            KeyboardInterrupt(),
            130,
            "stopped: run the same command again; it resumes from the last checkpoint or finished stage\n",
        ),
    ],
)
def test_every_failure_is_words_and_a_code(pipeline, capsys, command, error, code, words):
    pipeline.answer = error
    assert main(command) == code
    out, told = capsys.readouterr()
    assert words in told
    assert "Traceback" not in told + out


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (
            ["select"],
            "run the same command again; it resumes from the last checkpoint or finished stage",
        ),
        (
            ["score"],
            "run the same command again; it resumes from the last checkpoint or finished stage",
        ),
        (
            ["demo"],
            "run the same command again; it resumes from the last checkpoint or finished stage",
        ),
        (
            ["select", "--overwrite"],
            "run the same command again, without --overwrite to keep finished stages",
        ),
        (["finetune"], "run the same command again; it resumes from the last checkpoint"),
        (["export"], "run the same command again"),
        (["evaluate"], None),
        (["plan", "--out", "o"], None),
        (["select", "--dry-run"], None),
        (["report"], None),
    ],
)
def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys, arguments, hint):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("staff.cli.main.build_app", lambda: stop)
    assert main(arguments) == 130
    assert capsys.readouterr().err == (f"stopped: {hint}\n" if hint else "stopped\n")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["select", "d"], 1),
        (["finetune", "d"], 1),
        (["evaluate", "d", "--out=o"], 1),
        (["evaluate", "d"], 0),
        (["plan", "d", "--out=o"], 0),
        (["why", "runs/x"], 0),
        (["select", "--help"], 0),
        (["select", "--print-config"], 0),
    ],
)
def test_a_closed_output_fails_only_what_writes_files(monkeypatch, capsys, arguments, code):
    def closed(_):
        raise BrokenPipeError

    monkeypatch.setattr("staff.cli.main.build_app", lambda: closed)
    assert main(arguments) == code
    assert bool(capsys.readouterr().err) == bool(code)


def test_debug_shows_the_traceback(pipeline, capsys, command):
    pipeline.answer = DataError("broken")
    assert main([*command, "--debug"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_what_needs_no_model_is_refused_before_torch_is_imported(tmp_path, data):
    """One process for all of them: each would cost an interpreter's start."""
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "other.csv").write_text("foo,bar\n1,2\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").touch()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "metrics.json").touch()
    rest = ["--small", "none/small", "--target", "none/target", "--keep", "0.1", "--out"]
    out = str(tmp_path / "x")
    cases = [
        (2, ["select", str(data), "--keep", "2"]),
        (3, ["select", str(tmp_path / "none.jsonl"), *rest, out]),
        (3, ["select", str(tmp_path / "empty.jsonl"), *rest, out]),
        (3, ["select", str(tmp_path / "other.csv"), *rest, out]),
        (2, ["select", str(data), *rest, out, "--input-format", "alpacca"]),
        (4, ["select", str(data), "--small", str(tmp_path / "no"), *rest[2:], out]),
        (4, ["select", str(data), *rest, out, "--adapter", str(tmp_path)]),
        (5, ["select", str(data), *rest, str(tmp_path / "folder")]),
        (5, ["select", "--scores", str(tmp_path), "--keep", "0.1"]),
        (5, ["report", str(tmp_path)]),
        (5, ["why", str(tmp_path), "--row", "0"]),
        (5, ["export", str(tmp_path), "--to", "trl"]),
        (3, ["finetune", str(tmp_path / "none.jsonl"), "--model", "m", "--out", out]),
        (5, ["finetune", str(data), "--model", "m", "--out", str(tmp_path / "folder")]),
        (5, ["score", str(data), "--model", "m", "--out", str(tmp_path / "folder")]),
        (5, ["evaluate", str(data), "--model", "m", "--out", str(tmp_path / "results")]),
        (4, ["evaluate", str(data), "--model", "m", "--adapter", "org/name"]),
        (0, ["select", "--help"]),
    ]
    code = (
        "import sys, json; from staff.cli.main import main\n"
        f"codes = [main(case) for _, case in {cases!r}]\n"
        "print(json.dumps([codes, 'torch' in sys.modules]))"
    )
    done = subprocess.run([*PYTHON, code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == str([[c for c, _ in cases], "false"]).replace("'", ""), (
        done.stderr
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()


def test_the_hub_is_quiet():
    """It would log a line for every request that failed, before the one that says what to do."""
    code = (
        "import logging; from staff.cli.terminal import open_terminal; open_terminal()\n"
        "import huggingface_hub.utils\n"
        "print(logging.getLogger('huggingface_hub.utils._http').isEnabledFor(logging.WARNING))"
    )
    done = subprocess.run([*PYTHON, code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_help_is_quick():
    """Half a second of processor time, so that a busy machine does not matter."""

    def spent():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    seconds = []
    for _ in range(2):
        before = spent()
        subprocess.run([*PYTHON, RUN, "--help"], capture_output=True, check=True)
        seconds.append(spent() - before)
    assert min(seconds) < 0.5


@pytest.mark.parametrize("arguments", [["--help"], ["select", "--help"], []])
def test_help_of_which_the_first_lines_are_enough(arguments):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*PYTHON, RUN, *arguments], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_goes_away_is_no_error(finished):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*PYTHON, RUN, "report", str(finished[0])], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert done.returncode == 0
    [line] = done.stderr.splitlines()
    assert line.startswith("Report: ")
    assert (finished[0] / "report.html").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_an_output_without_room_is_not_taken_for_the_disk_of_the_run(command):
    code = (
        "import sys, types, staff\n"
        "found = {'format': 1, 'command': 'select'}\n"
        "staff.pipeline = types.SimpleNamespace(select=lambda *_, **__: found)\n" + RUN
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*PYTHON, code, *command], stdout=full, stderr=-1, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "error: standard output could not be written (No space left on device); the run is "
        f"complete in {command[-1]}\n"
    )


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_run_whose_reader_goes_away_is_not_done(command, closed):
    code = (
        "import sys, types, staff\n"
        "def select(config, progress, say):\n"
        "    say('at work'); return {'format': 1, 'command': 'select'}\n"
        "staff.pipeline = types.SimpleNamespace(select=select)\n" + RUN
    )
    read, write = os.pipe()
    os.close(read)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, closed: write}
    done = subprocess.run([*PYTHON, code, *command], **streams, text=True)
    os.close(write)
    assert done.returncode == 1
    if closed == "stdout":
        assert "stopped: the output was closed" in done.stderr
        assert "Traceback" not in done.stderr


def test_ctrl_c_stops_with_a_hint(command):
    code = (
        "import sys, time, types, staff\n"
        "def wait(config, **_):\n"
        "    print('ready', flush=True); time.sleep(60)\n"
        "staff.pipeline = types.SimpleNamespace(select=wait)\n" + RUN
    )
    run = subprocess.Popen(
        [*PYTHON, code, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout.readline() == "ready\n"
    run.send_signal(signal.SIGINT)
    _, told = run.communicate(timeout=20)
    assert run.returncode == 130
    assert (
        told
        == "stopped: run the same command again; it resumes from the last checkpoint or finished stage\n"
    )


STOPPED_AGAIN = """
import atexit, os, signal, sys, types, staff
from staff.__main__ import start

def stop(*_, **__):
    os.kill(os.getpid(), signal.{name})

staff.pipeline = types.SimpleNamespace(select=stop)
atexit.register(stop)  # as a library's that cleans up, meanwhile
sys.exit(start())
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_second_stop_while_python_leaves_is_no_traceback(command, name):
    done = subprocess.run(
        [*PYTHON, STOPPED_AGAIN.format(name=name), *command], capture_output=True, text=True
    )
    assert done.returncode == -getattr(signal, name)  # a shell says 130 and 143
    [line] = done.stderr.splitlines()
    assert line.startswith("stopped: run the same command again")


STOPPED_BY = """
import os, signal, sys
from staff.cli import main as module

def importing(arguments):
    try:
        os.kill(os.getpid(), signal.{name})
        signal.sigtimedwait([], 5)
    except BaseException as error:
        raise ModuleNotFoundError("Could not import module 'Trainer'") from error

module.build_app = lambda: importing
sys.exit(module.main())
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_stop_that_a_library_makes_an_import_error_of_is_a_stop(name, code):
    script = STOPPED_BY.format(name=name)
    done = subprocess.run(
        [sys.executable, "-c", script, "select"], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert (
        done.stderr
        == "stopped: run the same command again; it resumes from the last checkpoint or finished stage\n"
    )


STOPPED_AT_ONCE = """
import os, signal, sys
from staff.__main__ import start

class Slow:
    def find_spec(name, *_):
        if name == "cyclopts":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Slow)
sys.exit(start())
"""


def test_ctrl_c_while_the_command_line_is_imported():
    done = subprocess.run(
        [*PYTHON, STOPPED_AT_ONCE, "select"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "stopped\n")
