"""No control character of data or paths reaches a terminal, and what it cannot draw is lines."""

import io
import json
import os
import pty
import re
import select

import pytest
from rich.console import Console

from staff.cli.main import main
from staff.cli.progress import PlainProgress
from staff.cli.terminal import Terminal, open_terminal
from staff.errors import DataError
from staff.progress import SilentProgress
from staff.reports.bars import TerminalProgress

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\x08\x00\x7f"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@pytest.fixture
def hostile(tmp_path):
    """A run on data whose path, ids, sources and columns hold control characters."""
    folder = tmp_path / "a\x1b[31m"
    folder.mkdir()
    data = folder / "train.jsonl"
    rows = [
        {"prompt": f"p{i} {ESCAPES}", "response": "r", "id": f"{i}{ESCAPES}\nerror: x", "s\x1b": i}
        for i in range(9)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": ESCAPES}]))
    command = ["select", str(data), "--method", "random", "--keep", "0.5", "--on-bad-row", "skip"]
    command += ["--id-column", "id", "--source-column", "s\x1b", "--quota-column", "s\x1b"]
    return folder / "run", [*command, "--out", str(folder / "run")], rows


def said(capsys):
    out, err = capsys.readouterr()
    return out + err


def test_of_a_run(hostile, capsys):
    folder, command, rows = hostile
    assert main(command) == 0
    assert main([*command, "--dry-run"]) == 0
    assert main(["report", str(folder)]) == 0
    assert main(["why", str(folder), "--row", "3"]) == 0
    assert main(["why", str(folder), "--id", rows[3]["id"]]) == 0
    assert main(["why", str(folder), "--row", "9"]) == 0  # set aside
    assert main([*command, "--print-config"]) == 0
    text = said(capsys)
    assert "a␛[31m" in text
    assert "id 3␛]0;owned␇␛[2J" in text
    assert "␊error: x" in text
    assert "\nerror: x" not in text  # an id is no line of ours
    assert not CONTROL.search(text)


def test_of_an_error(hostile, capsys):
    _, command, _ = hostile
    strict = [value for value in command if value not in ("--on-bad-row", "skip")]
    assert main(strict) == 3
    assert main([*command, "--seed", ESCAPES]) == 2
    assert main(["select", f"--{ESCAPES}"]) == 2
    assert main(["why", f"nowhere{ESCAPES}".rstrip("\x00\x7f"), "--row", "1"]) == 5
    assert main(["report", f"nowhere{ESCAPES}"]) != 0
    text = said(capsys)
    assert "error: " in text
    assert not CONTROL.search(text)


def test_of_a_traceback(hostile, capsys, monkeypatch):
    _, command, _ = hostile

    def fail(*args, **kwargs):
        raise DataError(f"row {ESCAPES}")

    monkeypatch.setattr("staff.pipeline.select", fail)
    assert main([*command, "--debug"]) == 3
    text = said(capsys)
    assert "Traceback" in text
    assert "row ␛]0;owned␇" in text
    assert not CONTROL.search(text)


def test_of_progress_and_remarks_on_the_way():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, color_system=None)
    Terminal(SilentProgress(), console=console).say(f"kept {ESCAPES}")
    with PlainProgress(stream).stage(f"read {ESCAPES}") as stage:
        stage.note(ESCAPES)
    assert "kept ␛]0;owned␇" in stream.getvalue()
    assert not CONTROL.search(stream.getvalue())


@pytest.mark.parametrize(("kind", "bars"), [("dumb", False), ("xterm-256color", True)])
def test_a_terminal_without_a_cursor_gets_lines(monkeypatch, kind, bars):
    """A bar is drawn over and over, which rich does not do there: it would be seen when done."""
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", kind)
    with os.fdopen(theirs, "w", encoding="utf-8") as screen:
        monkeypatch.setattr("sys.stderr", screen)
        progress = open_terminal().progress
        with progress.stage("read", total=2):
            assert select.select([ours], [], [], 10)[0], "nothing is seen while it runs"
            begun = os.read(ours, 999).decode()
    os.close(ours)
    assert isinstance(progress, TerminalProgress) == bars
    assert ("━" in begun) == bars
    assert begun.startswith("read: 2 rows …") != bars
