"""A selection from stored scores makes nothing of features that are not those of its rows."""

import shutil

import numpy as np
import pytest

from staff import select_coreset
from staff.data.files import open_source
from staff.errors import RunError
from staff.pipeline import reselect
from staff.runs.config import SelectConfig
from staff.runs.manifest import begin, write_manifest
from staff.runs.selection_file import write_selection
from staff.runs.store import RunFolder
from staff.selectors import select_random
from staff.stored import read_stored

SETTINGS = {
    "prompt_column": "mr",
    "response_column": "ref",
    "method": "k-centre",
    "keep": 0.2,
    "skip_finetune": True,
    "dtype": "float32",
    "shard_rows": 8,
}
PART = "scores/small/part-00001.parquet"
NOT_THE_FILE = r"part-00001\.parquet is damaged or from another run: it is not the file listed"


@pytest.fixture(scope="module")
def data(e2e_file):
    return e2e_file(24)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data, family):
    """Finished runs with features of the same rows in three parts: `a`, and `b` of another model."""
    folder = tmp_path_factory.mktemp("runs")
    for name, model in zip("ab", family, strict=True):
        select_coreset(data, small=model, out=folder / name, **SETTINGS)
    return folder


@pytest.fixture
def copy(runs, tmp_path):
    """The run `a`, to be changed."""
    return shutil.copytree(runs / "a", tmp_path / "a")


def select(run, out):
    return select_coreset(scores=run, keep=0.2, out=out)


def test_whole_features_serve_again(runs, copy, tmp_path):
    again = select(copy, tmp_path / "out")
    assert again.coresets["0.2"].read_bytes() == (runs / "a" / "coreset-0.2.jsonl").read_bytes()


def torn(runs, copy):
    (copy / PART).write_bytes((copy / PART).read_bytes()[:-200])


def of_another_model(runs, copy):
    shutil.copyfile(runs / "b" / PART, copy / PART)


def of_other_rows(runs, copy):
    shutil.copyfile(copy / PART.replace("1.", "0."), copy / PART)


def one_too_many(runs, copy):
    (copy / PART).rename(copy / PART.replace("1.", "9."))
    shutil.copyfile(copy / PART.replace("1.", "9."), copy / PART)


def lost(runs, copy):
    (copy / PART).unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (torn, NOT_THE_FILE),
        (of_another_model, NOT_THE_FILE),
        (of_other_rows, NOT_THE_FILE),
        (one_too_many, NOT_THE_FILE.replace("1", "9", 1)),
        (lost, r"part-00001\.parquet is missing, but is listed in manifest\.json"),
    ],
)
def test_a_part_that_is_not_the_runs_own_is_named(runs, copy, tmp_path, change, message):
    change(runs, copy)
    with pytest.raises(RunError, match=message):
        select(copy, tmp_path / "out")
    assert not list(tmp_path.glob("out/coreset-*"))


def test_features_of_a_run_that_was_made_again_since(data, family, copy, tmp_path):
    select(copy, tmp_path / "first")
    select_coreset(data, small=family[1], out=copy, overwrite=True, **SETTINGS)
    with pytest.raises(
        RunError, match=r"do not match the rows and scores in .*first: .* again since"
    ):
        select(tmp_path / "first", tmp_path / "out")


def made(path, *, verified, file=None, **config):
    """A finished run, made without a model, whose target has scored `verified` rows of 20.

    file: where its rows are written to, to select from them again.
    """
    folder, n = RunFolder(path), 20
    keys = np.arange(n, dtype=np.uint64)
    target = np.where(np.arange(n) < verified, 2.0, np.nan)
    write_selection(
        folder.selection,
        ids=[f"id-{i}" for i in range(n)],
        rows=np.arange(n),
        scores={"effort": np.arange(n) + 1.0, "response_length": np.full(n, 3.0)},
        selections={"n4": select_random(keys=keys, total=4, seed=0)},
        score_target=target,
    )
    data = {"path": "d", "format": "text", "rows_read": n, "rows_usable": n, "sha256": "0"}
    if file is not None:
        file.write_text("".join(f'{{"text": "row {i}"}}\n' for i in range(n)))
        sha256 = open_source(str(file)).content_hash()
        data |= {"path": str(file), "reading": {"format": "text"}, "sha256": sha256}
    of_target = {"target_rows_scored": verified} if config["method"] == "staff" else {}
    coreset = {"name": "n4", "total": 4, "top_up": 0, "path": "coreset-n4.jsonl"}
    facts = {"data": data, "coresets": [coreset], **of_target}
    write_manifest(folder.manifest, begin("select", config, seed=0) | facts)
    return str(path)


def stored(run, method):
    return read_stored(SelectConfig(scores=run, keep=0.2, method=method))[0]


def test_a_selection_serves_where_the_run_that_scored_is_gone(tmp_path):
    gone = str(tmp_path / "gone")
    run = made(tmp_path / "run", verified=5, method="ccs", scores=gone)
    assert np.isfinite(stored(run, "staff").target_scores).sum() == 5
    assert list(stored(run, "grand").scores["effort"]) == list(range(1, 21))
    words = f"run is a selection from the scores of {gone}, which the method d2 needs here: there"
    with pytest.raises(RunError, match=words):
        stored(run, "d2")


def test_what_was_verified_is_not_told_by_a_run_made_again_since(tmp_path):
    for name, method, verified in (("a", "grand", 0), ("b", "staff", 5), ("c", "staff", 0)):
        made(tmp_path / name, method=method, verified=verified)
    for name, verified, serves in (
        ("a", 5, True),
        ("a", 0, False),
        ("b", 0, False),
        ("c", 0, True),
    ):
        scores = str(tmp_path / name)
        run = made(tmp_path / "again", verified=verified, method="random", scores=scores)
        if serves:
            stored(run, "staff")
        else:
            with pytest.raises(RunError, match="again has no scores of the target"):
                stored(run, "staff")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        # Of the scores 1 to 20 the lowest five are verified; regions have ten rows, or five.
        ({"regions": 2}, "1 region has no row verified in {}: it gets an equal share"),
        ({"regions": 4}, "3 regions have no row verified in {}: they get equal shares"),
        ({"regions": 2, "verify_per_region": 10}, None),  # too small to be verified
        ({"regions": 2, "method": "ccs"}, None),  # which never asks the target
    ],
)
def test_regions_without_a_verified_row_are_told(tmp_path, settings, told):
    run = made(tmp_path / "run", verified=5, file=tmp_path / "rows.jsonl", method="staff")
    asked = {"scores": run, "total": 4, "cut": 0, "verify_per_region": 4, **settings}
    said: list[str] = []
    reselect(SelectConfig(**asked, out=str(tmp_path / "again")), say=said.append)
    found = [text for text in said if "verified in" in text]
    assert found == ([told.format(run)] if told else [])


def test_the_micro_batch_of_the_scores_is_told_where_none_is_given(tmp_path):
    made_with = {"method": "random", "epochs": 2, "batch_size": 8, "micro_batch_size": 4}
    run = made(tmp_path / "run", verified=0, file=tmp_path / "rows.jsonl", **made_with)
    for given, kept in (({}, 4), ({"micro_batch_size": 2}, 2)):
        out = str(tmp_path / f"again-{kept}")
        again = reselect(SelectConfig(scores=run, total=4, out=out, **given))["config"]
        assert (again["epochs"], again["batch_size"], again["micro_batch_size"]) == (2, 8, kept)
