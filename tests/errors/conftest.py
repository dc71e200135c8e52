"""Where bad inputs are made and refused: a folder with good ones, and what a refusal must be."""

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from staff.cli.main import main

ROWS = "".join(f'{{"prompt": "What is {i}?", "response": "It is {i}."}}\n' for i in range(8))
DATA = {"train.jsonl": ROWS, "test.jsonl": ROWS[: ROWS.index("\n") + 1]}


@pytest.fixture(scope="session")
def made(tmp_path_factory, family):
    """A folder with a finished run (`run`), one without scores (`plain`), a folder of scores
    (`scored`) and an adapter of the small model (`adapter`).
    """
    folder = tmp_path_factory.mktemp("made")
    _furnish(folder, family)
    here = Path.cwd()
    os.chdir(folder)
    try:
        for command in (
            "select train.jsonl --small small --target target --keep 0.5 --out run "
            "--regions 2 --verify-per-region 1 --skip-finetune --quiet",
            "select train.jsonl --method random --keep 0.5 --out plain --quiet",
            "score train.jsonl --model small --out scored --quiet",
            "finetune train.jsonl --model small --out adapter --max-steps 1 --quiet",
        ):
            assert main(command.split()) == 0
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch, family):
    """The working folder of one case, with good data and models in it."""
    _furnish(tmp_path, family)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def prepared(place, request):
    """Makes the files of a case in `place`."""
    return lambda files: prepare(place, files, request)


@pytest.fixture
def refused(place, prepared, capfd):
    """Makes a bad input, runs the command, and holds what happens against what must.

    A case is (how it is made, files, command, exit code, message). Files map a name to its
    contents, to a function that makes it, or to a name in `made`, which is copied.
    """

    def check(case):
        _, files, command, code, message = case
        prepared(files)
        before = contents(place)
        capfd.readouterr()
        returned = main(shlex.split(command)[1:])
        out, told = capfd.readouterr()
        assert "Traceback" not in told
        assert (message_of(told, place), returned) == (message, code)
        assert out == ""
        assert contents(place) == before  # nothing written, nothing lost

    return check


def prepare(place, files, request):
    """Make the files of a case."""
    for name, content in files.items():
        path = place / name
        if callable(content):
            content(path)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            source = request.getfixturevalue("made") / content
            shutil.copytree(source, path, dirs_exist_ok=True)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content, encoding="utf-8", newline="")


def message_of(told, place):
    """The error in what was told, without the folder of the test; progress lines may precede it."""
    start = re.search(r"^error: ", told, re.MULTILINE)
    return told[start.end() :].removesuffix("\n").replace(str(place), "PATH") if start else told


def contents(place):
    """Every file and folder with its bytes; the models beside it are not followed."""
    return {
        str(path.relative_to(place)): path.read_bytes() if path.is_file() else None
        for path in sorted(place.rglob("*"))
    }


def _furnish(folder, family):
    for name, text in DATA.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name, model in zip(("small", "target"), family, strict=True):
        (folder / name).symlink_to(model)
