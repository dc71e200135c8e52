"""The whole comparison, with a real random selection; tuning and evaluating are stood in for."""

import csv
import json
import re
import shutil
import types
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from staff.checks import check_inputs
from staff.compare import cells
from staff.compare.plan import plan
from staff.compare.run import _contents, compare
from staff.data import kept as kept_rows
from staff.data.files import open_source
from staff.errors import ConfigError, DataError, RunError
from staff.hashing import hash_file
from staff.reports.compared_html import render_comparison_page
from staff.runs.compare_folder import CompareFolder


@pytest.fixture
def settings(config, family):
    """A function that makes settings of a comparison that needs no small model."""

    def make(**changes):
        return config(**{"methods": ("random",), "target": family[0], "small": None} | changes)

    return make


def test_a_comparison(settings, work, tmp_path):
    said = []
    result = compare(settings(seeds=2, metrics=("loss", "bleu")), say=said.append)
    out = tmp_path / "out"
    assert [what for what, _ in work.done].count("tune") == 4
    assert json.loads((out / "compare.json").read_text())["cells"] == result["cells"]
    assert [cell["cell"] for cell in result["cells"]] == [
        "untuned", "full-seed0", "random-0.5-seed0", "full-seed1", "random-0.5-seed1",
    ]  # fmt: skip
    assert said[:2] == ["cell 1 of 5: untuned", "seed 0: selection"]
    assert {s["method"] for s in result["selection"]} == {"random"}
    # What each cell was tuned on: the stand-in leaves the data in the place of the adapter.
    tuned = [
        (out / "cells" / f"random-0.5-seed{s}" / "adapter" / "adapter_config.json").read_text()
        for s in (0, 1)
    ]
    assert [len(text.splitlines()) for text in tuned] == [6, 6]
    assert tuned[0] != tuned[1]  # another seed is another draw
    # The same rows in all three files.
    table = pq.read_table(out / "results.parquet").to_pylist()
    assert table == result["results"]
    with (out / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["value"]) for line in lines] == [row["value"] for row in table]
    assert [(row["method"], row["metric"]) for row in table] == [
        (method, metric) for metric in ("loss", "bleu") for method in ("untuned", "full", "random")
    ]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page == render_comparison_page(json.loads((out / "compare.json").read_text()))
    assert "random is the only method" in page
    assert "report.html" not in result["files"]  # it is of compare.json, and made again from it
    markdown = (out / "results.md").read_text()
    assert "| untuned |  | 2.500 " in markdown
    assert not list(out.rglob("*.part"))


def test_training_rows_that_were_skipped_are_counted(settings, work, tmp_path):
    made = settings(on_bad_row="skip")
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"prompt": "no answer", "response": ""}\n')
    for _ in range(2):  # also where the selection is there already
        data = compare(made)["data"]
        assert (data["rows_usable"], data["rejected"], data["truncated"]) == (12, 1, 0)
        for file in ("results.md", "report.html"):
            assert "1 row of the training data skipped" in (tmp_path / "out" / file).read_text()


def test_duplicates_are_skipped_in_training_data_alone(settings, work, tmp_path, monkeypatch, own):
    """Not in test items, nor in coresets of one's own: those are taken as they are."""
    read = {}

    def noting(function):
        def note(config, **others):
            name = "test" if config.command == "evaluate" else Path(config.out).parent.name
            read.setdefault(name, set()).add(config.on_duplicate)
            return function(config, **others)

        return note

    monkeypatch.setattr(cells.single, "finetune", noting(cells.single.finetune))
    monkeypatch.setattr(cells.single, "evaluate", noting(cells.single.evaluate))
    without = plan(settings(own={"mine": own("mine.jsonl")}))
    for name in ("train", "test"):
        with (tmp_path / f"{name}.jsonl").open("a") as file:
            file.write(f'{{"prompt": "{name} 0", "response": "r"}}\n' * 4)
    asked = settings(own={"mine": own("mine.jsonl")}, on_duplicate="skip")
    twice = Path(own("mine.jsonl", rows=3))
    twice.write_text(twice.read_text() * 2)
    planned = plan(asked)
    assert planned["usable rows"] == 12
    tunings = [[s for s in one["stages"] if "tune" in s["name"]] for one in (planned, without)]
    assert tunings[0] == tunings[1] != []  # on 12 rows, not on 16
    result = compare(asked)
    assert (result["data"]["rows_usable"], result["data"]["rejected"]) == (12, 4)
    assert read == {
        "full-seed0": {"skip"}, "random-0.5-seed0": {"keep"}, "mine-0.5-seed0": {"keep"},
        "test": {"keep"},
    }  # fmt: skip
    told = "4 rows of the training data skipped, 4 of them duplicates"
    assert told in (tmp_path / "out" / "results.md").read_text()
    with pytest.raises(RunError, match="on_duplicate"):
        compare(settings())
    del work.done[:]
    compare(settings(overwrite=True))  # of all 16 rows now, and the folder's adapters are of 12
    assert [name for what, name in work.done if what == "tune"] == [
        "full-seed0, 3", "random-0.5-seed0, 3",
    ]  # fmt: skip


def test_only_what_is_missing_is_done(settings, work, tmp_path):
    compare(settings())
    assert len(work.done) == 5
    compare(settings())
    assert len(work.done) == 5
    compare(settings(keep=(0.5, 0.25)))
    assert work.done[5:] == [("tune", "random-0.25-seed0, 3"), ("evaluate", "random-0.25-seed0")]
    compare(settings(seeds=2))
    assert [name for what, name in work.done[7:] if what == "evaluate"] == [
        "full-seed1",
        "random-0.5-seed1",
    ]
    result = compare(settings(keep=(0.25,)))
    assert len(work.done) == 11
    assert [row["keep"] for row in result["results"]] == [None, None, 0.25]


def test_what_a_stop_leaves_has_no_page_of_before(settings, work, tmp_path):
    compare(settings())
    out = tmp_path / "out"
    assert (out / "report.html").is_file()
    work.fail = "evaluate"
    with pytest.raises(KeyboardInterrupt):
        compare(settings(keep=(0.5, 0.25)))
    assert not (out / "report.html").exists()
    with pytest.raises(RunError, match=r"1 of 4 cells is missing: random-0\.25-seed0; resume with"):
        CompareFolder(out).check_finished()


@pytest.mark.parametrize("stopped_after", range(5))
def test_a_stop_anywhere_costs_one_step_at_most(
    settings, work, tmp_path, stopped_after, monkeypatch
):
    whole = compare(settings())
    once = list(work.done)
    work.done.clear()
    fresh = settings(out=str(tmp_path / "other"))

    class Steps(list):
        def append(self, step):
            if len(self) == stopped_after and not self.resumed:
                raise KeyboardInterrupt
            super().append(step)

    work.done = Steps()
    work.done.resumed = False
    with pytest.raises(KeyboardInterrupt):
        compare(fresh)
    assert not (tmp_path / "other" / "compare.json").exists()
    work.done.resumed = True
    result = compare(fresh)
    assert work.done == once  # nothing twice
    assert [c["made_from"] for c in result["cells"]] == [c["made_from"] for c in whole["cells"]]
    assert [r["value"] for r in result["results"]] == [r["value"] for r in whole["results"]]


@pytest.mark.parametrize("name", ["train", "test"])
def test_changed_data_is_refused_and_overwritten_when_told(settings, work, tmp_path, name):
    compare(settings())
    data = tmp_path / f"{name}.jsonl"
    before = data.read_text()
    data.write_text(before.replace('"r"', '"s"', 1))  # as long as it was
    what = {"train": "data", "test": "test"}[name]
    with pytest.raises(RunError, match=rf"other contents: the {what}, .*{name}.jsonl, had SHA"):
        compare(settings())
    assert len(work.done) == 5
    compare(settings(overwrite=True))
    assert len(work.done) > 5
    data.write_text(before)
    with pytest.raises(RunError, match="other contents"):
        compare(settings())


@pytest.mark.parametrize(
    ("name", "at", "done"),
    [
        ("test", "cell 1 of 3: untuned", set()),
        ("train", "cell 2 of 3: full-seed0", {"untuned"}),
        ("train", "seed 0: selection", {"untuned"}),
        ("test", "cell 3 of 3: random-0.5-seed0", {"untuned", "full-seed0"}),
    ],
)
def test_data_changed_in_mid_run_finish_nothing(settings, work, tmp_path, name, at, done):
    data, out = tmp_path / f"{name}.jsonl", tmp_path / "out"
    before = data.read_text()

    def change(said):
        if said == at:
            data.write_text(before.replace('"r"', '"s"'))

    with pytest.raises(DataError, match=rf"{name}.jsonl changed while it was read: run the same"):
        compare(settings(), say=change)
    assert {path.parent.name for path in out.glob("cells/*/cell.json")} == done
    assert {path.parent.name for path in out.glob("cells/*/tuning.json")} == done - {"untuned"}
    assert not (out / "compare.json").exists()
    data.write_text(before)
    said = []
    again = compare(settings(), say=said.append)
    assert {text.split()[4].rstrip(",") for text in said if text.endswith("reused")} == done
    whole = compare(settings(out=str(tmp_path / "whole")))
    fingerprints = [[cell["made_from"] for cell in one["cells"]] for one in (again, whole)]
    assert fingerprints[0] == fingerprints[1]


def test_data_changed_after_the_last_cell_make_no_table(settings, work, tmp_path):
    compare(settings())

    def change(said):
        if said == "cell 3 of 3: random-0.5-seed0, reused":
            (tmp_path / "test.jsonl").write_text('{"prompt": "a", "response": "b"}\n')

    with pytest.raises(DataError, match="changed while it was read"):
        compare(settings(), say=change)
    assert not (tmp_path / "out" / "compare.json").exists()


def test_an_overwriting_start_that_was_killed_is_gone_on_with(settings, work, tmp_path):
    compare(settings())
    data = tmp_path / "train.jsonl"
    data.write_text(data.read_text().replace('"r"', '"s"'))
    # All that such a start has done when it is killed before it notes what it begins from.
    CompareFolder(tmp_path / "out").begin_writing(settings(overwrite=True))
    del work.done[:]
    compare(settings())
    assert len(work.done) == 5


def test_other_end_tokens_need_other_answers_and_no_other_tuning(settings, work, family, tmp_path):
    target = shutil.copytree(family[0], tmp_path / "target")
    compare(settings(target=str(target)))
    del work.done[:]
    file = target / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": [7, 8]}))
    compare(settings(target=str(target)))
    assert work.done == [
        ("evaluate", name) for name in ("untuned", "full-seed0", "random-0.5-seed0")
    ]


@pytest.mark.parametrize("role", ["small", "target"])
def test_a_changed_tokenizer_is_refused(settings, work, family, tmp_path, role):
    models = {
        name: str(shutil.copytree(family[0], tmp_path / name)) for name in ("small", "target")
    }
    found = compare(settings(**models))["models"]
    assert found["small"]["tokenizer"] == found["target"]["tokenizer"]
    file = tmp_path / role / "tokenizer.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"normalizer": {"type": "Lowercase"}})
    )
    with pytest.raises(RunError, match=f"other contents: the tokenizer of {role}, "):
        compare(settings(**models))
    assert len(work.done) == 5
    compare(settings(**models, overwrite=True))
    assert len(work.done) == 10


def test_a_coreset_changed_by_hand_is_chosen_again(settings, work, tmp_path):
    compare(settings())
    coreset = tmp_path / "out" / "seed-0" / "select" / "coreset-0.5.jsonl"
    coreset.write_text("by hand")
    compare(settings())
    assert len(work.done) == 5  # chosen again, and the same
    assert "by hand" not in coreset.read_text()


@pytest.fixture
def own(tmp_path):
    """A function that writes a coreset of so many rows to a file of that name."""

    def write(name, rows=6, said="chosen"):
        lines = (json.dumps({"prompt": f"{said} {i}", "response": "r"}) for i in range(rows))
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        return str(tmp_path / name)

    return write


def test_coresets_of_ones_own_are_compared_like_those_of_methods(settings, work, tmp_path, own):
    compare(settings(seeds=2))
    del work.done[:]
    places = {"mine": own("mine.jsonl"), "drawn": str(tmp_path / "drawn-{keep}-{seed}.jsonl")}
    drawn = [own(f"drawn-0.5-{seed}.jsonl", said=f"seed {seed}") for seed in (0, 1)]
    asked, out = settings(seeds=2, own=places), tmp_path / "out"
    planned = plan(asked)
    assert (planned["cells"], planned["cells already done"]) == (9, 5)
    assert "6 x tune, keep 0.5" in {stage["name"] for stage in planned["stages"]}
    result = compare(asked)
    # Only their cells, each on its file: the stand-in leaves it in the place of the adapter.
    cells = {"mine-0.5-seed0": places["mine"], "drawn-0.5-seed0": drawn[0],
             "mine-0.5-seed1": places["mine"], "drawn-0.5-seed1": drawn[1]}  # fmt: skip
    assert [name for what, name in work.done if what == "tune"] == [f"{c}, 3" for c in cells]
    for cell, file in cells.items():
        tuned = (out / "cells" / cell / "adapter" / "adapter_config.json").read_text()
        assert tuned == Path(file).read_text()
    sha256 = {name: [one["sha256"] for one in files] for name, files in result["own"].items()}
    assert sha256 == {"mine": [hash_file(places["mine"])], "drawn": list(map(hash_file, drawn))}
    rows = {row["method"]: row for row in pq.read_table(out / "results.parquet").to_pylist()}
    assert list(rows) == ["untuned", "full", "random", "mine", "drawn"]
    assert rows["mine"]["random_verdict"] == "tie"
    assert rows["mine"]["selection_seconds"] is None
    assert rows["mine"]["selection_to_tuning"] is None
    assert re.search(r"\| mine \| 0.5 \| 6 \| - \| 2.0 s \| - \|", (out / "results.md").read_text())
    assert "mine: one file for all seeds" in (out / "results.md").read_text()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page == render_comparison_page(json.loads((out / "compare.json").read_text()))
    assert "<strong>mine and drawn</strong> tie with a random subset" in page
    assert sha256["mine"][0] in page

    del work.done[:]
    assert plan(asked)["cells already done"] == 9
    own("drawn-0.5-1.jsonl", said="another")
    assert plan(asked)["cells already done"] == 8
    compare(asked)
    cell = "drawn-0.5-seed1"
    assert work.done == [("tune", f"{cell}, 3"), ("evaluate", cell)]
    result = compare(settings(seeds=2, own={"drawn": places["drawn"]}))
    assert len(work.done) == 2
    assert [row["method"] for row in result["results"]] == ["untuned", "full", "random", "drawn"]


def test_a_coreset_of_ones_own_of_another_size_stops_all_before_it_begins(
    settings, work, tmp_path, own, family
):
    scoring = {"small": family[0], "skip_finetune": True}
    compare(settings(**scoring))
    asked = settings(**scoring, own={"mine": own("mine.jsonl", rows=7)})
    words = r"--own mine=.*mine\.jsonl has 7 usable rows, and the coresets of keep 0\.5 have 6"
    for refusing in (plan, compare):
        with pytest.raises(ConfigError, match=words):
            refusing(asked)
    bad = Path(own("mine.jsonl"))
    bad.write_text(bad.read_text() + '{"prompt": "no answer", "response": ""}\n')
    with pytest.raises(DataError, match="1 of 7 rows cannot be used"):
        compare(asked)
    assert len(work.done) == 5
    there = {path.name for path in (tmp_path / "out").iterdir()}
    assert "compare.json" in there  # of before, which still holds
    with pytest.raises(DataError, match="1 of 7 rows cannot be used"):  # all rows are read first
        compare(asked.model_copy(update={"methods": ("length",)}))
    assert {path.name for path in (tmp_path / "out").iterdir()} == there


def test_a_coreset_of_ones_own_that_changes_meanwhile_is_refused(settings, work, tmp_path, own):
    asked = settings(own={"mine": own("mine.jsonl")})

    def change(said):
        if said == "cell 4 of 4: mine-0.5-seed0":
            own("mine.jsonl", said="changed")

    with pytest.raises(DataError, match=r"mine\.jsonl changed while it was read: run the same"):
        compare(asked, say=change)
    assert not (tmp_path / "out" / "cells" / "mine-0.5-seed0" / "tuning.json").exists()
    compare(asked)
    assert [name for what, name in work.done if what == "evaluate"][-1] == "mine-0.5-seed0"


def test_test_prompts_in_a_coreset_of_ones_own_are_told(settings, work, tmp_path, own):
    result = compare(settings(own={"mine": own("mine.jsonl", said="test")}))
    assert result["leaks"] == {"rows": 6, "of": 12}


def test_other_settings_are_refused_and_overwritten_when_told(settings, work):
    compare(settings())
    with pytest.raises(RunError, match="was made with epochs = 3, now it is 1: choose another"):
        compare(settings(epochs=1))
    compare(settings(epochs=1, overwrite=True))
    assert ("tune", "full-seed0, 1") in work.done
    assert len(work.done) == 10


def test_methods_that_need_a_small_model_come_to_a_comparison_without(settings, work, family):
    """A random subset stays what it was: the rows that may be chosen from are the same."""
    random = compare(settings())["cells"]
    more = {"methods": ("random", "length"), "small": family[0], "skip_finetune": True}
    result = compare(settings(**more))
    assert [what for what, name in work.done[5:]] == ["tune", "evaluate"]  # of length alone
    assert result["cells"][:-1] == random
    with pytest.raises(RunError, match=r"was made with small = .*, now it is .*: choose another"):
        compare(settings(**more | {"small": "another"}))


def test_a_comparison_that_was_moved_goes_on(settings, work, family, tmp_path):
    asked = {"methods": ("random", "length"), "small": family[0], "skip_finetune": True}
    before = compare(settings(**asked))
    done, moved = len(work.done), tmp_path / "moved"
    (tmp_path / "out").rename(moved)
    again = compare(settings(**asked, out=str(moved)))
    assert (len(work.done), again["selection"]) == (done, before["selection"])
    more = compare(settings(**asked, out=str(moved), keep=(0.5, 0.25)))
    assert len(work.done) == done + 4
    assert more["cells"][: len(before["cells"])] == before["cells"]


def test_the_same_number_of_steps(settings, work):
    # 12 rows in batches of 5 are 3 steps an epoch, twice: 6 steps for every tuning.
    compare(settings(same="steps", batch_size=5, epochs=2))
    assert [name for what, name in work.done if what == "tune"] == [
        "full-seed0, 6",
        "random-0.5-seed0, 6",
    ]


def test_leaks_are_told_and_the_test_data_need_no_sources(settings, work, tmp_path):
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    (tmp_path / "test.jsonl").write_text((tmp_path / "train.jsonl").read_text())
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps(row | {"source": "web"}) + "\n" for row in rows)
    )
    asked = settings(source_column="source")
    check_inputs(asked)
    assert plan(asked)["cells"] == 3
    said = []
    result = compare(asked, say=said.append)
    assert said[0] == "warning: 12 of 12 test prompts (100 %) occur in the training data"
    assert result["leaks"] == {"rows": 12, "of": 12}


def test_one_folder_may_hold_both_splits(settings, work, tmp_path):
    """Its training rows are not what is tested on."""
    folder = tmp_path / "set"
    folder.mkdir()
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").rename(folder / f"{split}.jsonl")
    with (folder / "test.jsonl").open("a") as file:
        file.write('{"prompt": "one more than in train", "response": "r"}\n')
    asked = settings(data=str(folder), test=str(folder), full=False)
    result = compare(asked)
    assert result["leaks"]["rows"] == 0
    assert result["data"]["sha256"] != result["test"]["sha256"]
    [evaluating] = [one for one in plan(asked)["stages"] if one["name"].endswith("x evaluate")]
    assert evaluating["rows"] == 13


def test_a_plan_leaves_nothing_and_counts_what_is_there(settings, work, tmp_path):
    asked = settings(keep=(0.5, 0.25), seeds=2, same="steps")
    planned = plan(asked)
    assert not (tmp_path / "out").exists()
    assert (planned["cells"], planned["cells already done"]) == (7, 0)
    stages = {stage["name"]: stage for stage in planned["stages"]}
    full, half = stages["2 x tune on all rows"], stages["2 x tune, keep 0.5"]
    assert (full["rows"], half["rows"]) == (12, 6)
    assert full["tokens"] == half["tokens"] > 0  # the same steps
    evaluated = stages["7 x evaluate"]["tokens"]
    read = stages["2 x read"].get("tokens", 0)
    assert planned["total tokens"] == 2 * read + 3 * 2 * full["tokens"] + 7 * evaluated
    assert planned["warnings"] == []
    compare(settings())
    assert plan(asked)["cells already done"] == 3
    assert plan(settings(metrics=("loss", "bleu")))["cells already done"] == 0


def test_a_plan_warns_once_of_what_a_selection_does(settings, family):
    asked = {"methods": ("staff", "ifd"), "small": family[0], "regions": 7}
    found = plan(settings(**asked))["warnings"]
    assert [text for text in found if text.startswith("7 regions are too many for 11 rows")]
    assert len(set(found)) == len(found)


def test_data_of_the_hub_are_named_with_their_commit(hub_data, tmp_path):
    commit = hub_data([{"prompt": "a", "response": "b"}])
    source = open_source("someone/some-data")
    assert _contents(source) == {"sha256": source.content_hash(), "revision": commit}
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n')
    assert _contents(open_source(tmp_path / "a.jsonl")).keys() == {"sha256"}


class Notes:
    """A progress that keeps what is noted, by stage."""

    def __init__(self):
        self.said = []

    @contextmanager
    def stage(self, name, *, total=None, unit="rows", exact=True):
        yield types.SimpleNamespace(
            advance=lambda amount=1: None, note=lambda text: self.said.append((name, text))
        )


def test_rows_are_read_and_tokenised_once_for_all_seeds(
    settings, work, family, tmp_path, own, monkeypatch
):
    notes, out, taken = Notes(), tmp_path / "out", []
    take = kept_rows.take

    def noting(folder, key):
        prepared, fault = take(folder, key)
        taken.extend([prepared] if prepared else [])
        return prepared, fault

    monkeypatch.setattr(kept_rows, "take", noting)
    asked = {
        "methods": ("staff", "random"), "seeds": 3, "small": family[0], "skip_finetune": True,
        "regions": 2, "verify_per_region": 2, "cut": 0.0,
    }  # fmt: skip
    compare(settings(**asked), progress=notes)
    kept = ("read", "rows and tokens of an earlier run are reused")
    assert notes.said.count(kept) == 2
    assert not list(out.rglob("tokens"))
    read = [
        json.loads((out / f"seed-{s}" / "select" / "manifest.json").read_text())["stages"][1]
        for s in range(3)
    ]
    assert [(stage["name"], stage["reused"]) for stage in read] == [
        ("read", False), ("read", True), ("read", True),
    ]  # fmt: skip
    # A seed is told to cost what it would alone.
    assert len(taken) == 2
    for stage, prepared in zip(read[1:], taken, strict=True):
        assert stage["seconds"] >= round(prepared.seconds, 3) > 0
    planned = plan(settings(**asked, out=str(tmp_path / "other")))
    assert {"1 x read", "3 x score small"} <= {stage["name"] for stage in planned["stages"]}
    # They are read before the selection, to hold a coreset of one's own to their number.
    asked |= {"seeds": 1, "own": {"mine": own("mine.jsonl")}, "out": str(tmp_path / "own")}
    compare(settings(**asked), progress=(notes := Notes()))
    assert notes.said.count(kept) == 1
