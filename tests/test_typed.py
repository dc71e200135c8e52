"""What a type checker knows of `staff` where it is installed."""

import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"
USE = """\
from staff import compare_coresets, select_coreset

reveal_type(select_coreset("train.jsonl", small="S", target="T", keep=0.1, out="x"))
reveal_type(compare_coresets)
"""


def test_a_program_that_uses_staff_sees_its_types(tmp_path):
    """In an environment without its dependencies: datasets has no types wherever it is."""
    pytest.importorskip("mypy")
    venv.create(tmp_path / "venv")
    [site] = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "staff.pth").write_text(f"{SRC}\n", encoding="utf-8")
    (tmp_path / "use.py").write_text(USE, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--ignore-missing-imports", "--cache-dir", "cache",
         "--python-executable", tmp_path / "venv" / "bin" / "python", "use.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    run, compare = re.findall('Revealed type is "(.*)"', done.stdout)
    assert run == "staff.finished.Run"
    assert compare.endswith("-> staff.finished.Comparison")
