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


@pytest.mark.parametrize("borrower", ["build/peers", "build/axolotl", "build/quant", ".fuzz-venv"])
def test_an_environment_borrows_in_a_folder_with_blanks(borrower, tmp_path):
    tree = tmp_path / "a tree"
    shutil.copytree(ROOT / "tools", tree / "tools")
    shutil.copy(ROOT / "Makefile", tree)
    python = tree / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON, encoding="utf-8")
    python.chmod(0o755)
    for name in ("pyproject.toml", "constraints.txt", ".venv/.installed"):
        (tree / name).touch()
    command = ["make", f"{borrower}/.installed"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    borrowed = tree / borrower / "bin" / "borrowed.pth"
    assert borrowed.read_text(encoding="utf-8") == f"{python.parent}\n"
