"""The demo on fewer rows: everything it does, in seconds (`make demo` runs the whole of it)."""

import pyarrow.parquet as pq
import pytest

from staff import demo
from staff.errors import RunError
from staff.reports.comparison import render_comparison

ASSETS = demo.TASK


def test_the_demo_compares_staff_with_random(tmp_path, monkeypatch):
    task = tmp_path / "task"
    task.mkdir()
    for split, rows in (("train", 120), ("test", 20)):
        lines = (ASSETS / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")[:rows]
        (task / f"{split}.jsonl").write_text("".join(f"{x}\n" for x in lines), encoding="utf-8")
    monkeypatch.setattr(demo, "TASK", task)
    out = tmp_path / "run"
    result = demo.run(out)
    methods = result["comparison"]["methods"]
    assert set(methods) == {"untuned", "STAFF", "random"}
    assert methods["STAFF"]["tuning"]["rows"] == methods["random"]["tuning"]["rows"] == 12
    difference = result["comparison"]["difference"]["loss"]
    items = {
        name: pq.read_table(out / f"evaluate-{name}" / "items.parquet")["loss"].to_numpy()
        for name in ("staff", "random")
    }
    assert abs(difference.mean - (items["staff"] - items["random"]).mean()) < 1e-9
    assert difference.low <= difference.mean <= difference.high
    ratio = result["selection_to_tuning"]
    assert ratio["ratio"] == ratio["selection_seconds"] / ratio["estimated_tuning_seconds"]
    text = render_comparison(result, width=80)
    assert "untuned" in text
    assert "selection-to-tuning ratio" in text
    again = demo.run(out)  # a finished demo can be run again in the same folder
    assert again["files"]["coreset-0.1.jsonl"] == result["files"]["coreset-0.1.jsonl"]


def test_a_refused_demo_removes_nothing(tmp_path):
    mine = tmp_path / "comparison.json"
    mine.write_text("mine")
    with pytest.raises(RunError, match="contains files but no staff run"):
        demo.run(tmp_path)
    assert mine.read_text() == "mine"
