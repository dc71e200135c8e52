import errno
import subprocess
import sys

import pytest

from staff.errors import RunError
from staff.runs.config import SelectConfig
from staff.runs.config_file import build
from staff.runs.store import RunFolder, write_atomic


def config(tmp_path, **more):
    return SelectConfig(
        **{
            "data": "train.jsonl",
            "small": "S",
            "target": "T",
            "out": str(tmp_path / "x"),
            "keep": 0.1,
            **more,
        }
    )


def test_writing_is_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, "old")

    def half(file):
        file.write(b"new")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomic(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_while_writing_leaves_nothing(tmp_path):
    def stopped(file):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", stopped)
    assert not list(tmp_path.iterdir())


def test_a_start_writes_the_configuration(tmp_path):
    folder = RunFolder(tmp_path / "x")
    folder.start(config(tmp_path))
    assert build(SelectConfig, file=folder.config) == config(tmp_path)
    assert not folder.finished


def test_another_selection_in_the_same_folder_keeps_the_scores(tmp_path):
    folder = RunFolder(tmp_path / "x")
    folder.start(config(tmp_path))
    folder.scores_small.mkdir(parents=True)
    folder.manifest.write_text("{}")
    folder.start(config(tmp_path, keep=0.5, regions=7, batch_tokens=99, data="./train.jsonl"))
    assert folder.scores_small.is_dir()
    assert not folder.finished  # the manifest goes first: the run is unfinished again


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"phi": "adapter"}, "phi = 'last-value', now it is 'adapter'"),
        ({"small": "S2"}, "small = 'S', now it is 'S2'"),
        ({"seed": 1}, "seed = 0, now it is 1"),
        ({"max_length": 9}, r"max_length = \(not set\), now it is 9"),
    ],
)
def test_a_folder_of_another_configuration_is_refused(tmp_path, change, words):
    folder = RunFolder(tmp_path / "x")
    folder.start(config(tmp_path))
    with pytest.raises(RunError, match=words) as error:
        folder.start(config(tmp_path, **change))
    assert "--overwrite" in str(error.value)
    folder.start(config(tmp_path, **change), overwrite=True)


def test_overwriting_removes_what_a_run_leaves_and_nothing_else(tmp_path):
    folder = RunFolder(tmp_path / "x")
    folder.start(config(tmp_path))
    (folder.path / "scores" / "small").mkdir(parents=True)
    (folder.path / "coreset-0.1.jsonl").write_text("{}")
    (folder.path / "notes.txt").write_text("mine")
    folder.start(config(tmp_path), overwrite=True)
    assert sorted(p.name for p in folder.path.iterdir()) == ["config.yaml", "notes.txt"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_somebody_elses_folder_is_refused(tmp_path, overwrite):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.tex").write_text("")
    with pytest.raises(RunError, match="no run of staff"):
        RunFolder(tmp_path / "x").start(config(tmp_path), overwrite=overwrite)
    with pytest.raises(RunError, match="is a file"):
        RunFolder(tmp_path / "x" / "thesis.tex").start(config(tmp_path))


@pytest.mark.parametrize("name", ["data", "adapter", "small"])
def test_a_run_never_reads_what_it_replaces(tmp_path, name):
    folder = RunFolder(tmp_path / "x")
    folder.start(config(tmp_path))
    (folder.path / "adapter").mkdir()
    with pytest.raises(RunError, match=f"{name} .* lies in the folder this run writes to"):
        folder.start(config(tmp_path, **{name: str(folder.path / "adapter")}), overwrite=True)
    assert (folder.path / "adapter").is_dir()


def test_coresets_of_an_earlier_selection_go(tmp_path):
    folder = RunFolder(tmp_path)
    for name in ("0.1", "0.2", "n40"):
        folder.coreset(name).write_text("")
    folder.remove_other_coresets(["0.2", "n40"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["coreset-0.2.jsonl", "coreset-n40.jsonl"]


def test_outputs_are_what_is_there_of_a_run(tmp_path):
    folder = RunFolder(tmp_path / "x")
    folder.start(config(tmp_path))
    folder.coreset("0.1", "csv").write_text("")
    folder.scores_small.mkdir(parents=True)
    for name in ("manifest.json", "notes.txt", ".lock"):
        (folder.path / name).touch()
    assert [path.name for path in folder.outputs()] == ["config.yaml", "coreset-0.1.csv", "scores"]


def test_a_second_process_is_kept_out(tmp_path):
    code = f"from staff.runs.store import RunFolder\nwith RunFolder({str(tmp_path / 'x')!r}).lock(): pass"
    with RunFolder(tmp_path / "x").lock():
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "another staff process is at work" in second.stderr
    assert not list((tmp_path / "x").iterdir())
    with RunFolder(tmp_path / "x").lock():
        RunFolder(tmp_path / "x").start(config(tmp_path))  # its own lock is no foreign file
