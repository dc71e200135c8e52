"""The grid of the evidence (benchmarks/grid.py) does not take one data's work for another's."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def grid(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import grid

    yield grid
    for name in ("grid", "tasks"):
        sys.modules.pop(name, None)


def test_other_training_rows_are_selected_from_anew(grid, tmp_path, monkeypatch):
    sizes = []

    def select(config):
        sizes.append(len(Path(config.data).read_text(encoding="utf-8").splitlines()))
        out = Path(config.out)
        out.mkdir(parents=True)
        (out / "manifest.json").write_text("{}")

    monkeypatch.setattr(grid.pipeline, "select", select)
    for rows in (50, 100, 100):
        data = grid.write_task("e2e_demo", None, tmp_path / "data", rows=rows)
        block = grid.Block(
            "e2e_demo",
            0,
            data=data,
            work=tmp_path / "work",
            store=tmp_path / "s",
            models=grid.Models(),
        )
        block.select("staff")
    assert sizes == [50, 100]
