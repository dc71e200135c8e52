import numpy as np
import pytest

from staff.cli.story import rebuild, tell
from staff.errors import ConfigError, RunError
from staff.rng import keys_of_ids
from staff.runs.manifest import read_manifest
from staff.runs.selection_file import read_selection
from staff.selectors import explain


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


def test_rows_are_those_of_the_file(finished):
    folder = finished[0]
    assert tell(folder, id=None, row=8).startswith(
        "Row 8 of train.jsonl, id id-7\n"
    )  # row 7 was bad
    assert tell(folder, id=None, row=7) == "Row 7 of train.jsonl was set aside: response is empty\n"


def test_rows_that_do_not_exist(finished):
    with pytest.raises(ConfigError, match="no row 301: rows go from 0 to 300"):
        tell(finished[0], id=None, row=301)
    with pytest.raises(ConfigError, match=r"no row of .* has the id 'x'"):
        tell(finished[0], id="x", row=None)


def test_a_random_run_says_so(random_run):
    folder, selection = random_run
    row = int(selection.rows[0])
    assert "drawn by the method 'random'" in tell(folder, id=None, row=row)


def test_files_that_disagree_are_refused(finished):
    folder = finished[0]
    text = (folder / "manifest.json").read_text().replace('"name": "0.1"', '"name": "0.2"')
    (folder / "manifest.json").write_text(text)
    with pytest.raises(RunError, match="disagree on the coreset"):
        tell(folder, id="id-0", row=None)
