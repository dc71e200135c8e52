"""Peak memory does not grow with the number of rows."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "memory.py"


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    """The script imports others of its folder."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))


def compare(kind, sizes, folder):
    if not SCRIPT.is_file():
        pytest.skip("needs benchmarks/memory.py of the checkout")
    spec = importlib.util.spec_from_file_location("memory_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write_tokenizer(folder / "model")
    few, many = module.compare("read and tokenise", kind, sizes, folder)
    assert (few["rows"], many["rows"]) == sizes
    return many["peak_mb"] - few["peak_mb"]


@pytest.mark.slow
def test_twelve_thousand_rows_against_two(tmp_path):
    assert compare("jsonl", (2_000, 12_000), tmp_path) <= 25


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "arrow"])
def test_a_hundred_thousand_rows_against_ten(kind, tmp_path):
    assert compare(kind, (10_000, 100_000), tmp_path) <= 100
