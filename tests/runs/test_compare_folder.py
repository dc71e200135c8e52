import pytest

from staff.errors import RunError
from staff.runs.compare_config import CompareConfig
from staff.runs.compare_folder import CompareFolder
from staff.runs.config import SelectConfig
from staff.runs.store import RunFolder


@pytest.fixture
def settings(tmp_path):
    def make(**changes):
        given = {"data": "a", "test": "b", "small": "s", "target": "t", "keep": (0.1,)}
        return CompareConfig(**{**given, "out": str(tmp_path / "out"), **changes})

    return make


@pytest.fixture
def folder(settings, tmp_path):
    """A comparison with one finished cell."""
    folder = CompareFolder(tmp_path / "out")
    folder.begin_writing(settings())
    for name in ("cell.json", "tuning.json", "items.parquet", "mine.txt"):
        path = folder.cell("untuned") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"methods": ("random",)}, {"keep": (0.2, 0.3)}, {"seeds": 9}, {"metrics": ("loss",)},
        {"full": False}, {"own": {"mine": "x"}}, {"batch_tokens": 9}, {"device": "cuda"}, {"data": "./a"},
    ],
)  # fmt: skip
def test_what_may_change(folder, settings, changes):
    folder.check_same_config(settings(**changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"test": "c"}, "was made with test = 'b', now it is 'c'"),
        ({"same": "steps"}, "same = 'epochs', now it is 'steps'"),
        ({"preset": "paper"}, "preset = 'released', now it is 'paper'"),
        ({"cut": 0.2}, "cut = 0.1, now it is 0.2"),
        ({"small_epochs": 1}, r"small_epochs = \(not set\), now it is 1"),
    ],
)
def test_what_may_not(folder, settings, changes, words):
    with pytest.raises(RunError, match=words):
        folder.check_same_config(settings(**changes))
    folder.check_same_config(settings(**changes, overwrite=True))


def test_a_preset_is_no_change_to_itself(settings, folder):
    folder.begin_writing(settings(preset="paper"))
    folder.check_same_config(settings(preset="paper"))


def test_data_inside_and_folders_of_others_are_refused(folder, settings, tmp_path):
    inside = tmp_path / "out" / "train.jsonl"
    with pytest.raises(RunError, match="is in the folder this run writes to"):
        folder.check_same_config(settings(test=str(inside)))
    own = {"a": str(tmp_path / "{keep}" / "x"), "b": str(tmp_path / "out-{keep}" / "a.jsonl")}
    CompareFolder(tmp_path / "out-0.2").check_same_config(settings(own=own))
    with pytest.raises(RunError, match=r"own b .*out-0\.1.* is in the folder this run writes to"):
        CompareFolder(tmp_path / "out-0.1").check_same_config(settings(own=own))
    select = SelectConfig(data="a", small="s", target="t", keep=0.1, out=str(folder.path))
    with pytest.raises(RunError, match="was made by staff compare"):
        RunFolder(folder.path).check_same_config(select)
    other = RunFolder(tmp_path / "run")
    other.start(select)
    other.begin_writing(select)
    other.adapter.mkdir()
    with pytest.raises(RunError, match="was made by staff select"):
        CompareFolder(other.path).check_same_config(settings(out=str(other.path)))


def test_no_run_overwrites_a_comparison(folder):
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    select = SelectConfig(
        data="a", small="s", target="t", keep=0.1, out=str(folder.path), overwrite=True
    )
    with pytest.raises(RunError, match=r"was made by staff compare: choose another --out$"):
        RunFolder(folder.path).start(select, overwrite=True)
    assert {path: path.read_bytes() for path in before} == before


def test_overwriting_forgets_what_was_done_and_leaves_the_rest(folder, settings):
    (folder.path / "results.csv").write_text("x")
    (folder.path / "notes.txt").write_text("x")
    folder.begin_writing(settings(overwrite=True))
    left = {path.name for path in folder.path.rglob("*") if path.is_file()}
    assert left == {"config.yaml", "items.parquet", "mine.txt", "notes.txt"}


def test_what_is_missing_is_named(folder, settings, tmp_path):
    assert folder.is_comparison
    with pytest.raises(RunError, match=r"9 of 10 cells are missing: full-seed0, staff-0\.1-seed0,.* "
                       r"and 1 more; resume with staff compare --config .*config\.yaml"):  # fmt: skip
        folder.check_finished()
    folder.begin_writing(settings(methods=("random",), own={"mine": "x"}, seeds=1, full=False))
    with pytest.raises(RunError, match=r"2 of 3 cells are missing: random-0.1-seed0, mine-0\.1-"):
        folder.check_finished()
    folder.manifest.write_text("{}")
    folder.check_finished()
    assert not CompareFolder(tmp_path / "other").is_comparison
    RunFolder(tmp_path / "run").begin_writing(SelectConfig(data="a", target="t", small="s", keep=(0.1,), out=str(tmp_path / "run")))  # fmt: skip
    assert not CompareFolder(tmp_path / "run").is_comparison
