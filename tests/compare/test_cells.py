import json

import pytest

from staff.compare import cells
from staff.compare.cells import Inputs, finished, run_cell
from staff.runs.compare_cells import Cell, cells_of

CELL = Cell("staff", "0.5", 0)


@pytest.fixture
def inputs(tmp_path):
    """A function that makes what a cell depends on."""
    coreset = tmp_path / "coreset.jsonl"
    coreset.write_text("rows")

    def make(**changes):
        given = {"target": {"hash": "t"}, "test": "e", "file": coreset, "sha256": "c"}
        return Inputs(**{**given, **changes})

    return make


@pytest.fixture
def run(work, config, inputs, tmp_path):
    """Do a cell unless it is done; returns what was done for that."""

    def go(cell=CELL, *, at="cell", settings=None, **changes):
        before, folder = len(work.done), tmp_path / at
        asked = (cell, config(**(settings or {})), inputs(**changes))
        finished(*asked, folder=folder) or run_cell(*asked, folder=folder)
        assert finished(*asked, folder=folder)
        return [what for what, _ in work.done[before:]]

    return go


def test_every_cell_seed_by_seed(config):
    asked = config(keep=(0.1, 0.5), seeds=2)
    names = [cell.name for cell in cells_of(asked)]
    assert names[:6] == [
        "untuned", "full-seed0", "staff-0.1-seed0", "random-0.1-seed0", "staff-0.5-seed0",
        "random-0.5-seed0",
    ]  # fmt: skip
    assert names[6] == "full-seed1"
    assert len(set(names)) == len(names) == 11
    without = [cell.name for cell in cells_of(config(full=False))]
    assert without == ["untuned", "staff-0.5-seed0", "random-0.5-seed0"]


def test_what_is_done_is_not_done_again(run):
    assert run() == ["tune", "evaluate"]
    assert run() == []
    assert run(settings={"batch_tokens": 1, "device": "cuda"}) == []  # change the speed only


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": "other coreset"},
        {"target": {"hash": "other weights"}},
        {"max_steps": 7},
        {"settings": {"epochs": 1}},
        {"settings": {"learning_rate": 1e-3}},
        {"settings": {"max_length": 9}},
        {"cell": Cell("staff", "0.5", 1)},
    ],
)
def test_what_a_tuning_depends_on(run, changes):
    run()
    assert run(**changes) == ["tune", "evaluate"]


def test_cells_of_other_versions_are_not_mixed(run, monkeypatch):
    run()

    monkeypatch.setattr(cells, "versions_of", lambda *names: dict.fromkeys(names, "0.0"))
    assert run() == ["tune", "evaluate"]


def test_other_test_data_needs_no_other_tuning(run):
    run()
    assert run(test="other test data") == ["evaluate"]
    assert run(test="other test data", settings={"max_new_tokens": 3}) == ["evaluate"]


def test_the_untuned_target_is_only_evaluated(run):
    nothing = {"file": None, "sha256": None}
    assert run(Cell("untuned"), at="untuned", **nothing) == ["evaluate"]
    # No setting of the tuning is a setting of it.
    assert run(Cell("untuned"), at="untuned", settings={"epochs": 1}, **nothing) == []


def test_more_metrics_are_measured_with_the_adapter_that_is_there(run):
    run()
    assert run(settings={"metrics": ("loss", "bleu")}) == ["evaluate"]
    assert run(settings={"metrics": ("bleu",)}) == []


def test_a_stop_between_tuning_and_evaluating_keeps_the_adapter(run, work):
    work.fail = "evaluate"
    with pytest.raises(KeyboardInterrupt):
        run()
    work.fail = None
    assert run() == ["evaluate"]


def test_a_stop_while_tuning_leaves_no_word_about_the_earlier_adapter(run, work, tmp_path):
    run()
    work.fail = "tune"
    with pytest.raises(KeyboardInterrupt):
        run(sha256="other")
    work.fail = None
    assert not (tmp_path / "cell" / "tuning.json").exists()
    assert run() == ["tune", "evaluate"]


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_changed_adapter_is_made_again(run, tmp_path, name):
    run()
    more = {"metrics": ("loss", "bleu")}
    adapter = tmp_path / "cell" / "adapter" / name
    made = adapter.read_bytes()
    adapter.write_bytes(made[:-1] + b"!")
    assert run(settings=more) == ["tune", "evaluate"]
    assert adapter.read_bytes() == made
    adapter.unlink()
    (tmp_path / "cell" / "cell.json").unlink()
    assert run(settings=more) == ["tune", "evaluate"]


def test_a_note_without_hashes_of_the_adapter_does_not_count(run, tmp_path):
    run()
    note = tmp_path / "cell" / "tuning.json"
    note.write_text(
        json.dumps({k: v for k, v in json.loads(note.read_text()).items() if k != "files"})
    )
    assert run(settings={"metrics": ("loss", "bleu")}) == ["tune", "evaluate"]


@pytest.mark.parametrize("name", ["cell.json", "items.parquet"])
def test_damage_is_noticed(run, tmp_path, name):
    run()
    (tmp_path / "cell" / name).write_text("half")
    assert run() == ["evaluate"]
    (tmp_path / "cell" / name).unlink()
    assert run() == ["evaluate"]


def test_cell_json(run, tmp_path):
    run()
    found = json.loads((tmp_path / "cell" / "cell.json").read_text())
    assert (found["cell"], found["method"], found["keep"], found["seed"]) == (
        "staff-0.5-seed0", "staff", "0.5", 0,
    )  # fmt: skip
    assert found["tuning"] == {
        "rows": 6,
        "steps": 2,
        "tokens": 99,
        "seconds": 2.0,
        "last_loss": 1.0,
    }
    assert found["values"] == {"loss": 1.5}
