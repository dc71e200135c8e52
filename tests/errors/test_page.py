"""The catalogue as a whole: docs/errors.md is what it makes, and it is as large as it says."""

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "errors_page.py"
spec = importlib.util.spec_from_file_location("errors_page", TOOL)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)
GROUPS = tool.groups()
CASES = [case for group in GROUPS.values() for case in group]
IN_A_PROCESS = [case for group in GROUPS.values() for case in group[:2]]


def test_the_page_is_what_the_tests_make():
    found = tool.PAGE.read_text(encoding="utf-8")
    assert found == tool.page(GROUPS), "run: python tools/errors_page.py"


def test_there_are_enough():
    assert len(CASES) >= 100
    assert len({case[4] for case in CASES}) >= 60
    assert len(GROUPS) == 7
    assert min(len(group) for group in GROUPS.values()) >= 8
    for group in GROUPS.values():
        assert len({case[0] for case in group}) == len(group)


def test_messages_are_for_people():
    for made, _, _, code, message in CASES:
        assert code in (1, 2, 3, 4, 5), made
        assert "internal error" not in message, made
        assert max(map(len, message.split("\n"))) < 700, made


@pytest.mark.parametrize("case", IN_A_PROCESS, ids=[case[0] for case in IN_A_PROCESS])
def test_the_real_command_says_the_same(case, place, prepared):
    _, files, command, code, message = case
    prepared(files)
    before = sorted(place.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-m", "staff", *shlex.split(command)[1:]],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    told = done.stderr.replace(str(place), "PATH")
    assert (done.returncode, told, done.stdout) == (code, f"error: {message}\n", "")
    assert sorted(place.rglob("*")) == before
