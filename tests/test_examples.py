"""The examples run as they stand."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))


@pytest.mark.slow  # the quickstart's page runs the same from the command line
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example(example):
    done = subprocess.run(
        [sys.executable, str(example)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "40 of 400 rows" in done.stdout
    assert "1000 rows chosen" in done.stdout


def test_the_notebook_runs_and_shows_its_progress(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    notebook = nbformat.read(EXAMPLES[0].with_suffix(".ipynb"), as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = [cell["outputs"] for cell in notebook.cells if cell.cell_type == "code"]
    drawn = [o["data"]["text/html"] for o in outputs[1] if o.output_type == "display_data"]
    for stage, state in (
        ("read", "200 rows"),
        ("fine-tune", "25/25 steps"),
        ("score small", "200/200 rows"),
    ):
        assert any(stage in html and state in html for html in drawn), stage
    [result] = [o for o in outputs[1] if o.output_type == "execute_result"]
    assert "num_rows: 20" in result["data"]["text/plain"]
    assert {"mr", "ref"} == set(ast.literal_eval(outputs[2][0]["data"]["text/plain"]))
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]
