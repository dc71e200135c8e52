"""A selection from stored scores makes nothing of features that are not those of its rows."""

import shutil

import pytest

from staff import select_coreset
from staff.errors import RunError

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
