"""Comparisons without a model: what tuning and evaluating would leave, made of numbers."""

import json
import types
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from staff.compare import cells
from staff.runs.compare_config import CompareConfig
from staff.training.adapter_folder import ADAPTER_FILES

ITEMS = 12


@pytest.fixture
def config(tmp_path):
    """A function that makes settings over two small files."""
    for name in ("train", "test"):
        lines = (json.dumps({"prompt": f"{name} {i}", "response": "r"}) for i in range(ITEMS))
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))

    def make(**changes):
        settings = {
            "data": str(tmp_path / "train.jsonl"),
            "test": str(tmp_path / "test.jsonl"),
            "small": "S",
            "target": "T",
            "keep": (0.5,),
            "seeds": 1,
            "metrics": ("loss",),
            "out": str(tmp_path / "out"),
        }
        return CompareConfig(**{**settings, **changes})

    return make


@pytest.fixture
def write_items():
    """A function that leaves items.parquet as `staff evaluate` does."""

    def write(folder, losses, *, said="a b c d", metrics=("loss",)):
        columns = {"id": [f"i{n}" for n in range(len(losses))], "loss": pa.array(losses)}
        if "bleu" in metrics:
            columns["prediction"] = [said] * len(losses)
            columns["reference"] = ["a b c d"] * len(losses)
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), folder / "items.parquet")

    return write


@pytest.fixture
def work(monkeypatch, write_items):
    """Stands in for `staff.single`; `done` lists what was tuned and evaluated, `fail` makes it fail."""
    notes = types.SimpleNamespace(done=[], fail=None)

    def note(what, out):
        if notes.fail == what:
            raise KeyboardInterrupt
        notes.done.append((what, out))

    def finetune(config, *, progress=None, on_placed):
        out = Path(config.out)
        note("tune", f"{out.parent.name}, {config.max_steps or config.epochs}")
        out.mkdir(parents=True, exist_ok=True)
        for name in ADAPTER_FILES:
            (out / name).write_text(Path(config.data).read_text())
        facts = {"rows": 6, "steps": 2, "tokens": 99, "seconds": 2.0, "last_loss": 1.0}
        on_placed(facts)
        return facts

    def evaluate(config, *, progress=None):
        out = Path(config.out)
        note("evaluate", out.name)
        losses = np.linspace(1, 2, ITEMS) + (config.adapter is None)
        write_items(out, losses, metrics=config.metrics)
        facts = {"rows": ITEMS, "rejected": 0, "truncated": 0}
        return facts | {metric: {"value": losses.mean()} for metric in config.metrics}

    stand_in = types.SimpleNamespace(finetune=finetune, evaluate=evaluate)
    monkeypatch.setattr(cells, "single", stand_in)
    return notes
