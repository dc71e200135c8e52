"""The grid of the evidence (benchmarks/grid.py) does not take one data's work for another's."""

import argparse
import json
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from staff.errors import RunError

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def grid(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import grid

    yield grid
    for name in ("grid", "grid_report", "rates", "tasks", "variants"):
        sys.modules.pop(name, None)


@pytest.fixture
def block_of(grid, tmp_path):
    """The block of so many rows of the demo's task, seed 0, with these models."""

    def make(rows, **models):
        return grid.Block(
            "e2e_demo",
            0,
            data=grid.write_task("e2e_demo", None, tmp_path / f"data-{rows}", rows=rows),
            work=tmp_path / "work",
            store=tmp_path / "s",
            models=grid.Models(**models),
        )

    return make


def test_other_training_rows_are_selected_from_anew(grid, block_of, monkeypatch):
    sizes = []

    def select(config):
        sizes.append(len(Path(config.data).read_text(encoding="utf-8").splitlines()))
        out = Path(config.out)
        out.mkdir(parents=True)
        (out / "manifest.json").write_text("{}")

    monkeypatch.setattr(grid.pipeline, "select", select)
    for rows in (50, 100, 100):
        block_of(rows).select("staff")
    assert sizes == [50, 100]


@pytest.mark.parametrize(
    ("variant", "small"), [("small-4m", "target"), ("small-bitnet", "others/bitstories1M")]
)
def test_a_variant_names_its_small_model_without_its_place(
    grid, block_of, variant, small, tmp_path, monkeypatch
):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "model.safetensors").touch()
    block = block_of(20, target=tmp_path / "target", others=tmp_path / "others")
    (block.work / "staff").mkdir(parents=True)
    (block.work / "staff" / "manifest.json").touch()
    asked = []
    monkeypatch.setattr(grid.pipeline, "select", asked.append)
    block.select(variant)
    assert asked[0].small == str(tmp_path / small)
    assert str(tmp_path) not in str(grid.VARIANTS[variant].settings)


def test_a_loss_in_percent_is_of_the_seeds_that_both_have(grid):
    import grid_report

    items = np.linspace(-0.1, 0.1, 50)
    losses = {("staff", "0.1", 0): 1 + items, ("staff", "0.1", 1): 3 + items}
    losses["cut-0", "0.1", 0] = 1.1 * (1 + items)
    found = grid_report.Found(values={"loss": losses})
    assert found.percent("cut-0", minus="staff") == pytest.approx([10] * 3)
    assert found.percent("cut-0", minus="random") is None


def test_settings_are_told_by_part_against_staff_and_random_with_their_seeds(grid):
    import grid_report

    items = np.linspace(-0.1, 0.1, 50)
    level = {"random": 2.0, "staff": 1.0, "cut-0": 1.1, "plain-cut-0": 1.2}
    losses = {(m, "0.1", s): v * (10 + items) for m, v in level.items() for s in (0, 1, 2)}
    del losses["cut-0", "0.1", 2], losses["plain-cut-0", "0.1", 1], losses["plain-cut-0", "0.1", 2]
    lines = list(grid_report._settings({"t": grid_report.Found(values={"loss": losses})}))
    rows = [line.split(" | ") for line in lines if line.startswith("| ") and "seed" in line]
    place, told = [row[:2] for row in rows], [row[2] for row in rows]
    changed = [["| cut (0.1)", "cut-0"], ["| several at once", "plain-cut-0"]]
    assert place == [*changed, ["| none", "staff"], *changed]
    found = [text.partition(" (")[0] + text[text.index(",") :] for text in told]
    over_staff = ["+10.0, 2 seeds |", "+20.0, 1 seed |"]
    assert found == [*over_staff, "-50.0, 3 seeds |", "-45.0, 2 seeds |", "-40.0, 1 seed |"]


def test_a_table_says_of_how_many_seeds_a_figure_is_if_not_of_three(grid):
    import grid_report

    items = np.linspace(-0.1, 0.1, 50)
    seeds = {"ccs": 3, "staff": 5, "random": 5}
    losses = {(m, "0.1", s): 1 + items for m, n in seeds.items() for s in range(n)}
    lines = list(grid_report._over_random({"t": grid_report.Found(values={"loss": losses})}))
    assert "| staff | 0.1 | +0.0 (+0.0 to +0.0), 5 seeds |" in lines
    assert "| ccs | 0.1 | +0.0 (+0.0 to +0.0) |" in lines


def test_a_cell_says_which_coreset_it_is_of(grid, block_of, monkeypatch):
    block = block_of(20)
    coreset = block.work / "random" / "coreset-0.1.jsonl"
    coreset.parent.mkdir(parents=True)
    coreset.write_text("{}\n")
    (coreset.parent / "manifest.json").touch()
    kept = dict.fromkeys(("method", "keep", "seed", "tuning", "test", "values"))

    def run_cell(cell, config, inputs, *, folder):
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"id": ["a"], "loss": [1.0]}), folder / "items.parquet")
        return kept | {"metrics": ["loss"]}

    monkeypatch.setattr(grid, "run_cell", run_cell)
    monkeypatch.setattr(grid, "read_manifest", lambda folder: {"stages": []})
    block.run(grid.Cell("random", "0.1", 0), generate=False)
    [cell] = json.loads(block.facts.read_text())["cells"].values()
    assert cell["coreset"] == grid.hash_file(coreset)


def test_two_processes_do_not_write_over_each_others_cells(grid, tmp_path, monkeypatch):
    store = tmp_path / "store"
    asked = argparse.Namespace(
        data=None, work=tmp_path, store=store, tasks=["e2e_demo"], seeds=[0], keep=["0.1"],
        variants=["random", "ccs"], rows=100, full=False, generate=True, generate_at=("0.1",),
        dtype="float32", small=grid.SMALL, target=grid.TARGET, others=tmp_path,
        learning_rate=0.01,
    )  # fmt: skip
    refused, generated = [], []

    def run_once(block, cell, *, generate):
        generated.append(generate)
        if not refused:  # another process begins meanwhile
            with pytest.raises(RunError, match="another staff process") as told:
                grid.run(asked)
            refused.append(told)

    monkeypatch.setattr(grid.Block, "run", run_once)
    grid.run(asked)
    assert generated == [True, True]
    # What another process had done before it let go is read once more.
    seen, hold = [], grid.hold_beside

    @contextmanager
    def after_another(facts):
        with hold(facts):
            read = grid.Block.read
            monkeypatch.setattr(
                grid.Block, "read", lambda block: read(block) | {"cells": {"of another": {}}}
            )
            yield

    monkeypatch.setattr(grid, "hold_beside", after_another)
    monkeypatch.setattr(
        grid.Block, "run", lambda block, cell, *, generate: seen.append(list(block.found["cells"]))
    )
    grid.run(asked)
    assert seen == [["of another"]] * 2
    monkeypatch.setattr(grid.Block, "run", run_once)
    monkeypatch.setattr(grid, "hold_beside", hold)
    assert not list(store.glob(".*.lock"))
    asked.generate_at = ("0.2",)
    grid.run(asked)
    assert generated[2:] == [False, False]


def test_every_variant_of_staff_is_in_one_part(grid):
    import grid_report

    told = [name for _, name in grid_report._parts()]
    assert sorted(told) == sorted(
        ["staff", *(name for name in grid.VARIANTS if name not in grid_report.METHODS)]
    )


def test_a_loss_in_percent_is_as_uncertain_as_what_it_is_a_share_of(grid):
    import grid_report

    random = np.random.default_rng(0).gamma(4, 0.25, 400)  # mean 1, standard deviation 1/2
    losses = {("random", "0.1", 0): random, ("grand", "0.1", 0): random + 0.5}
    value, low, high = grid_report.Found(values={"loss": losses}).percent("grand", minus="random")
    mean = random.mean()
    assert value == pytest.approx(50 / mean)
    # The difference is sure, the mean it is divided by is not: 0.5/m² · 1.96 · s/√n either way.
    reach = 50 / mean**2 * 1.96 * random.std() / 20
    assert (high - low) / 2 == pytest.approx(reach, rel=0.1)


def test_one_seed_is_no_win(grid):
    import grid_report

    items = np.linspace(-0.1, 0.1, 50)
    losses = {
        (m, "0.1", s): level + items for m, level in (("random", 2), ("ccs", 1)) for s in (0, 1)
    }
    losses["moderate", "0.1", 0] = 1 + items
    tasks = {"task": grid_report.Found(values={"loss": losses})}
    lines = list(grid_report._against_random(tasks))
    assert "| ccs | 0.1 | 1 – 0 – 0 |  |  |" in lines
    assert not any("moderate" in line for line in lines)


def test_staff_is_set_against_the_other_methods_and_bleu_beside_rouge(grid):
    import grid_report

    keys = [(m, "0.1", s) for m in ("random", "ccs", "staff") for s in (0, 1)]
    level = {"random": 2.0, "ccs": 1.0, "staff": 1.5}
    found = grid_report.Found(
        cells={key: {"values": {"bleu": 10.0 + key[2]}} for key in keys},
        values={
            "loss": {key: np.full(50, level[key[0]]) for key in keys},
            "rougeL": {key: np.full(50, 30.0) for key in keys},
        },
    )
    lines = list(grid_report._staff_over({"task": found}))
    assert "| ccs | 0.1 | +50.0 (+50.0 to +50.0), 2 seeds |" in lines
    assert not any("| random |" in line or "| staff |" in line for line in lines)
    [staff] = [line for line in grid_report._answers(found, "rougeL", "R") if "| staff" in line]
    assert staff.endswith("| tie | 10.5 |")


def test_no_exact_match_at_all_is_said(grid):
    import grid_report

    found = grid_report.Found(values={"exact": {("staff", "0.1", 0): np.zeros(9)}})
    said = list(grid_report._answers(found, "exact", "exact match, %"))
    assert said == ["No answer of any of 1 cells is right to the letter.\n"]
    assert list(grid_report._answers(found, "rougeL", "ROUGE-L")) == []


def test_where_no_answer_is_right_nothing_is_told(grid):
    import grid_report

    def found(exact):
        cells = [(m, "0.1", s) for m in ("staff", "random") for s in (0, 1)]
        values = {"loss": np.ones(40), "exact": exact}
        return grid_report.Found(values={k: dict.fromkeys(cells, v) for k, v in values.items()})

    none, some = found(np.zeros(40)), found(np.eye(40)[0])
    lines = list(grid_report._against_random({"one": none, "other": some}))
    assert "| staff | 0.1 | 0 – 2 – 0 |  | 0 – 1 – 0 |" in lines
    # Of 40 answers none: up to Wilson's z²/(n + z²), in percent.
    assert none.value("exact", "staff", "0.1") == pytest.approx((0, 0, 8.76), abs=0.01)


def test_a_page_of_rates_sets_each_against_random(grid, tmp_path, capsys, monkeypatch):
    import rates

    for rate, staff in (("0.01", 1.1), ("0.0002", 0.9)):
        cells, names, losses = {}, [], []
        for method, level in (("random", 2.0), ("staff", 2.0 * staff)):
            for seed in (0, 1):
                name = f"{method}-0.1-seed{seed}"
                cell = {"method": method, "keep": "0.1", "seed": seed, "tuning": {"rows": 600}}
                cells[name] = cell
                names += [name] * 9
                losses += [level] * 9
        blank = pa.nulls(len(names), pa.float32())
        table = pa.table({"cell": names, "loss": losses, "rougeL": blank, "exact": blank})
        place = tmp_path / rate
        place.mkdir()
        pq.write_table(table, place / "e2e_nlg-seed0.parquet")
        facts = {"task": "e2e_nlg", "made_from": rate, "cells": cells}
        (place / "e2e_nlg-seed0.json").write_text(json.dumps(facts))
    monkeypatch.setattr(sys, "argv", ["rates.py", "--store", str(tmp_path)])
    rates.main()
    told = capsys.readouterr().out
    assert told.index("## 0.0002") < told.index("## 0.01")
    assert "| staff | 0.1 | 600 | 2 | 1.800 (1.800 to 1.800) | -10.0 (-10.0 to -10.0) |" in told
    assert "| staff | 0.1 | 600 | 2 | 2.200 (2.200 to 2.200) | +10.0 (+10.0 to +10.0) |" in told
    assert "| random | 0.1 | 600 | 2 | 2.000 (2.000 to 2.000) |  |" in told


def test_a_page_lies_beside_its_store_and_says_which_models_it_is_of(grid, tmp_path, monkeypatch):
    store = tmp_path / "grid-1.5"
    store.mkdir()
    cell = {"method": "random", "keep": "0.1", "seed": 0, "tuning": {"rows": 4}}
    cell["test"] = {"rows": 9}
    facts = {"task": "snips", "made_from": "x", "cells": {"random-0.1-seed0": cell}}
    facts["models"] = {
        "parameters": {"small": 1_115_008, "target": 16_848_384}, "learning_rate": 0.003,
    }  # fmt: skip
    (store / "snips-seed0.json").write_text(json.dumps(facts))
    blank = pa.nulls(9, pa.float32())
    columns = {"cell": ["random-0.1-seed0"] * 9, "loss": [1.0] * 9}
    table = pa.table({**columns, "rougeL": blank, "exact": blank})
    pq.write_table(table, store / "snips-seed0.parquet")
    monkeypatch.setattr(sys, "argv", ["grid.py", "--store", str(store), "report", "--write"])
    grid.main()
    page = (tmp_path / "grid-1.5.md").read_text()
    assert "A target of 16.8M parameters, a small model of 1.1M, float32," in page
    assert "learning rate of\n0.003 for both." in page
    assert (tmp_path / "grid-1.5.svg").is_file()
    assert "STAFF's settings" not in page


def test_the_models_of_a_store_are_told_by_their_sizes(grid):
    facts = grid.Models(learning_rate=0.003).facts()
    assert facts["parameters"] == {"small": 1_115_008, "target": 4_000_000}


def test_the_quick_version_names_the_precision_it_computes_in(grid, tmp_path, monkeypatch, capsys):
    cells = []
    monkeypatch.setattr(
        grid.Block, "run", lambda self, cell, **_: cells.append((cell.name, self.models.dtype))
    )
    monkeypatch.setattr(sys, "argv", ["grid.py", "quick", "--rows", "40"])
    grid.main()
    names, dtypes = zip(*cells, strict=True)
    assert set(dtypes) <= {"float32", "bfloat16"}
    assert {"untuned", "full-seed1", "staff-0.1-seed0", "random-0.1-seed1"} <= set(names)
    assert "# Test loss over random's, %" in capsys.readouterr().out
