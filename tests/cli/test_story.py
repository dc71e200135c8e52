import json
from dataclasses import replace

import numpy as np
import pytest

from staff import select_coreset
from staff.cli.story import rebuild, tell
from staff.errors import ConfigError, RunError
from staff.rng import keys_of_ids
from staff.runs.manifest import read_manifest
from staff.runs.selection_file import read_selection, write_selection
from staff.selectors import explain
from staff.types import REASONS


def test_a_stored_run_tells_what_the_live_one_would(finished):
    folder, selections, scores, ids = finished
    for code in np.unique(selections["0.1"].reason):
        row = int(np.flatnonzero(selections["0.1"].reason == code)[0])
        told = tell(folder, id=ids[row], row=None, width=10_000).splitlines()
        live = [
            f"{name}: " + " ".join(
                explain(row, scores=scores, selection=s, keys=keys_of_ids(ids, 3), name=f"Row {ids[row]}")
            )
            for name, s in selections.items()
        ]  # fmt: skip
        assert [told[2], told[4]] == live


def test_rebuilding_gives_the_same_selection(finished):
    folder, selections, _, _ = finished
    table, manifest = read_selection(folder / "selection.parquet"), read_manifest(folder)
    for name, selection in selections.items():
        again = rebuild(manifest, table, name)
        np.testing.assert_array_equal(again.rows, selection.rows)
        np.testing.assert_array_equal(again.reason, selection.reason)
        np.testing.assert_array_equal(again.regions.edges, selection.regions.edges)
        np.testing.assert_array_equal(again.verification.ratio, selection.verification.ratio)
        np.testing.assert_array_equal(again.verification.interval, selection.verification.interval)
        np.testing.assert_array_equal(again.budget.count, selection.budget.count)
        assert again.budget.total == selection.budget.total


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"quota_column": "kind"},
            {"0.1": "divided among the values", "0.3": "divided among the values"},
        ),
        ({"nested": True}, {"0.1": "nested", "0.3": ""}),
    ],
)
def test_a_budget_that_is_shared_says_so(finished, settings, told):
    folder, selections, _, ids = finished
    manifest = read_manifest(folder)
    manifest["config"] |= settings
    (folder / "manifest.json").write_text(json.dumps(manifest))
    row = int(np.flatnonzero(selections["0.1"].reason == REASONS.index("budget"))[0])
    small, large = tell(folder, id=ids[row], row=None, width=10_000).splitlines()[2::2]
    for text, words in ((small, told["0.1"]), (large, told["0.3"])):
        assert words in text
        assert ("nested" in text) == (words == "nested")


def test_rows_are_those_of_the_file(finished):
    folder = finished[0]
    assert tell(folder, id=None, row=8).startswith(
        "Row 8 of train.jsonl, id id-7\n"
    )  # row 7 was bad
    assert tell(folder, id=None, row=7) == "Row 7 of train.jsonl was rejected: response is empty\n"


def test_rows_that_do_not_exist(finished):
    with pytest.raises(ConfigError, match="no row 301: rows go from 0 to 300"):
        tell(finished[0], id=None, row=301)
    with pytest.raises(ConfigError, match=r"no row of .* has the id 'x'"):
        tell(finished[0], id="x", row=None)


def test_a_random_run_says_so(random_run):
    folder, selection = random_run
    row = int(selection.rows[0])
    assert "drawn by the method 'random'" in tell(folder, id=None, row=row)


def test_ifd_with_a_row_without_losses_has_a_story_of_every_row(random_run):
    folder, drawn = random_run
    ids, loss = [f"id-{i}" for i in range(20)], np.linspace(0.5, 1.0, 20)
    loss[3] = np.nan
    reason = drawn.reason.copy()
    reason[3] = REASONS.index("rejected")
    write_selection(
        folder / "selection.parquet",
        ids=ids,
        rows=np.arange(20),
        scores={"effort": loss, "loss": loss, "unconditioned_loss": 2 * loss**0},
        selections={"n4": replace(drawn, reason=reason, method="ifd")},
    )
    text = (folder / "manifest.json").read_text().replace('"random"', '"ifd"')
    (folder / "manifest.json").write_text(text)
    assert "its score is not a finite number" in tell(folder, id="id-3", row=None)
    told = " ".join(tell(folder, id="id-19", row=None).split())
    assert "Its IFD ratio is 0.5, number 1 of 19 from the highest." in told


def test_files_that_disagree_are_refused(finished):
    folder = finished[0]
    text = (folder / "manifest.json").read_text().replace('"name": "0.1"', '"name": "0.2"')
    (folder / "manifest.json").write_text(text)
    with pytest.raises(RunError, match=r"is in selection\.parquet but not in manifest"):
        tell(folder, id="id-0", row=None)


@pytest.fixture
def skipping(tmp_path):
    """Makes a run that sets bad rows aside: of an empty answer, without an id, and no JSON."""
    rows = [{"id": f"mine-{i}", "n": i, "prompt": "p", "response": f"r{i}"} for i in range(8)]
    rows[2]["response"] = ""
    rows[3] |= {"id": "", "n": None}
    lines = [json.dumps(row) for row in rows]
    lines[5] = lines[5][:-1]
    (tmp_path / "d.jsonl").write_text("\n".join(lines) + "\n")

    def make(**settings):
        out = tmp_path / "run"
        settings = {"method": "random", "keep": 0.5, "on_bad_row": "skip", **settings}
        select_coreset(tmp_path / "d.jsonl", out=out, **settings)
        return out

    return make


@pytest.mark.parametrize(
    ("column", "asked", "usable"), [("id", "mine-2", "mine-1"), ("n", "2", "1")]
)
def test_a_row_set_aside_is_found_by_its_own_id(skipping, column, asked, usable):
    run = skipping(id_column=column)
    told = tell(run, id=asked, row=None)
    assert told.endswith(f"d.jsonl, id {asked}, was rejected: response is empty\n")
    assert told.startswith("Row 2 of ")
    assert f", id {usable}\n" in tell(run, id=usable, row=None)


def test_a_row_set_aside_in_the_scored_run_is_found_in_the_next(skipping, tmp_path):
    run = skipping(id_column="id")
    again = tmp_path / "again"
    select_coreset(scores=run, method="random", keep=0.25, out=again)
    assert "was rejected: response is empty" in tell(again, id="mine-2", row=None)


def test_of_several_files_the_one_a_row_set_aside_is_in_is_named(tmp_path):
    data, lines = tmp_path / "d", ['{"id": "x", "text": "a"}\n', '{"id": "y", "text": ""}\n']
    data.mkdir()
    (data / "a\x1b.jsonl").write_text(lines[0])
    (data / "b.jsonl").write_text(lines[0].replace('"x"', '"z"') + lines[1])
    asked = {"method": "random", "keep": 0.5, "on_bad_row": "skip", "id_column": "id"}
    select_coreset(data, out=tmp_path / "run", **asked)
    told = "in b.jsonl, line 2, was rejected: text is empty\n"
    assert tell(tmp_path / "run", id=None, row=2) == f"Row 2 of {data}, {told}"
    assert tell(tmp_path / "run", id="y", row=None) == f"Row 2 of {data}, id y, {told}"


def test_a_row_set_aside_without_an_id_is_said_to_be_found_by_its_number(skipping):
    run = skipping(id_column="id")
    with pytest.raises(ConfigError) as told:
        tell(run, id="mine-5", row=None)  # its line is no JSON
    assert str(told.value).endswith(
        "has the id 'mine-5': ids are in selection.parquet and, for the 3 rejected rows, in column "
        "'id' of rejected.jsonl; for a row without an id give --row N"
    )
    assert "was rejected: " in tell(run, id=None, row=5)
    assert tell(run, id=None, row=3).endswith("was rejected: column 'id' contains no id\n")
    (run / "rejected.jsonl").unlink()
    with pytest.raises(
        ConfigError, match=r"'id' of rejected\.jsonl, which is missing; for a row without"
    ):
        tell(run, id="mine-2", row=None)


def test_without_an_id_column_rows_set_aside_have_no_id(skipping):
    run = skipping()
    with pytest.raises(
        ConfigError, match=r"no --id-column was given\); the 2 rejected rows have none: give --row"
    ):
        tell(run, id="mine-2", row=None)
    assert tell(run, id=None, row=2).endswith("was rejected: response is empty\n")


def test_a_hostile_id_and_a_damaged_list_do_no_harm(skipping, tmp_path):
    run = skipping(id_column="id")
    file = run / "rejected.jsonl"
    bad = {"row": 2, "line": 3, "reason": "a\nb", "record": {"id": "\x1b[31m\n"}}
    file.write_text(json.dumps(bad) + "\n")
    assert "id ␛[31m␊, was rejected: a␊b\n" in tell(run, id="\x1b[31m\n", row=None)
    for damage in ("{", "[]", '{"row": {}}', '{"row": 2}', "\xff"):
        file.write_text(damage + "\n", encoding="latin-1")
        with pytest.raises(RunError, match=r"rejected\.jsonl is damaged"):
            tell(run, id="mine-2", row=None)
