"""The Makefile, with stand-ins for what it installs."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# `python -m venv FOLDER` makes one of itself; else it is asked for its site-packages.
PYTHON = """#!/bin/sh
if [ "$1" = -m ]; then
  mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/pip"
else
  cd "$(dirname "$0")" && pwd
fi
"""


@pytest.fixture
def tree(tmp_path):
    """A folder with the Makefile, installed."""
    tree = tmp_path / "a tree"
    shutil.copytree(ROOT / "tools", tree / "tools")
    shutil.copy(ROOT / "Makefile", tree)
    python = tree / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON, encoding="utf-8")
    python.chmod(0o755)
    for name in ("pyproject.toml", "constraints.txt", ".venv/.installed"):
        (tree / name).touch()
    return tree


def made(tree, *arguments):
    """What `make` prints."""
    done = subprocess.run(
        ["make", *arguments], cwd=tree, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("borrower", ["build/peers", "build/axolotl", "build/quant", ".fuzz-venv"])
def test_an_environment_borrows_in_a_folder_with_blanks(borrower, tree):
    made(tree, f"{borrower}/.installed")
    borrowed = tree / borrower / "bin" / "borrowed.pth"
    assert borrowed.read_text(encoding="utf-8") == f"{tree / '.venv' / 'bin'}\n"


def test_every_trainer_that_is_pinned_is_installed_for_its_tests(tree):
    (tree / "tools" / "trainers" / "new.txt").touch()
    shown = made(tree, "--dry-run", "test-exports")
    for name in ("axolotl", "llama-factory", "new"):
        assert f"build/{name}/bin/pip install" in shown
