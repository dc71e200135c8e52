"""The examples of every `staff VERB --help`, as docs/reference/cli.md has them, are run one after the other.

Their files are anybody's: here they are a few rows, the embedded models, and stand-ins for the Hub's.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from doc_commands import ROOT, blocks
from test_commands import environment, placeholders

TRAIN = "train.jsonl --small SMALL --target TARGET --keep 0.1"
# What stands for something else in an example, and what is put in its place.
INSTEAD = {"…": f"{TRAIN} --out runs/cached", "/tmp/demo": "demo", "~/.cache": "cache"}
MADE_UP = "9f86d081884c7d65-0"  # an id, of which the first row's takes the place
NOT_RUN = {
    "--id mine-17": "needs an id column in runs/x",
    "--keep n500": "needs a coreset of 500 rows in runs/x",
    "--device cuda": "needs a GPU",
    "staff demo": "tests/test_demo.py runs it",
}


def examples() -> list[str]:
    """The commands of the page, each in one line."""
    page = "\n".join(
        command.text
        for block in blocks(ROOT / "docs" / "reference" / "cli.md")
        for command in block.commands
    )
    lines = page.replace("\\\n", " ").split("\n")
    return [" ".join(line.split()) for line in lines if line.strip() and line[0] != "#"]


def prepare(folder: Path) -> None:
    """The files that the examples name."""
    placeholders(folder)
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text("utf-8").splitlines()]
    lines = [json.dumps(row | {"source": "ab"[n % 2]}) + "\n" for n, row in enumerate(rows)]
    (folder / "train.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "mine.jsonl").write_text("".join(lines[:4]), encoding="utf-8")  # 0.1 of 40
    table = "question,answer\n" + "".join(f"{n}?,{n}\n" for n in range(1001)) + "none,\n"
    (folder / "train.csv").write_text(table, encoding="utf-8")


@pytest.mark.slow
def test_the_examples_of_help(tmp_path, programs, hub):
    folder = tmp_path / "work"
    folder.mkdir()
    prepare(folder)
    env = environment(programs, HF_HUB_CACHE=str(hub))
    for number, example in enumerate(examples()):
        if any(words in example for words in NOT_RUN) or ("less" in example and no_less()):
            continue
        command = example
        for words, other in INSTEAD.items():
            command = command.replace(words, other)
        if (table := folder / "runs" / "x" / "selection.parquet").is_file():
            ids = pq.read_table(table)["id"].to_pylist()
            command = command.replace(MADE_UP, ids[0])
            (folder / "test-ids.txt").write_text(f"{ids[1]}\n", encoding="utf-8")
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command}"], cwd=folder, env=env, text=True,
            stdin=subprocess.DEVNULL, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (
            f"{number}: {command}\n{done.stdout[-500:]}{done.stderr[-3000:]}"
        )


def no_less() -> bool:
    return shutil.which("less") is None or os.name != "posix"


def test_what_is_not_run_is_among_the_examples():
    found = examples()
    assert len(found) > 30
    for words in (*NOT_RUN, *INSTEAD, MADE_UP):
        assert any(words in example for example in found), words
