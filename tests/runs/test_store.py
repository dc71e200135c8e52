import errno
import json
import os
import platform
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from staff.errors import ProcessGoneError, RunError, StaffError
from staff.runs.config import ScoreConfig, SelectConfig
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


def begun(folder, config):
    """What a run does before its first result."""
    folder.start(config, overwrite=config.overwrite)
    folder.begin_writing(config)
    return folder


def finish(folder, *coresets):
    """Leave the files of a finished run, as far as the folder cares."""
    for name in (
        *("scores/small/part-00000.parquet", "scores/target/part-00000.parquet"),
        *("adapter/adapter_config.json", "adapter/adapter_model.safetensors", "adapter/loss.jsonl"),
        *("adapter/staff.json", "selection.parquet", "rejected.jsonl", ".stages.json", *coresets),
        "report.html",
    ):
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / name).write_text("result")
    listed = [{"name": name[8:].rpartition(".")[0], "path": name} for name in coresets]
    folder.manifest.write_text(json.dumps({"format": 1, "coresets": listed}))


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_writing_is_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, "old")

    def half(file):
        file.write(b"new")
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with pytest.raises(StaffError, match=f"the disk is full while writing {path}: free some"):
        write_atomic(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_while_writing_leaves_nothing(tmp_path):
    def stopped(file):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", stopped)
    assert not list(tmp_path.iterdir())


def test_a_run_that_begins_writes_its_configuration(tmp_path):
    folder = begun(RunFolder(tmp_path / "x y"), config(tmp_path, out=str(tmp_path / "x y")))
    assert build(SelectConfig, file=folder.config) == config(tmp_path, out=str(tmp_path / "x y"))
    first = folder.config.read_text().splitlines()[0]
    assert first.endswith(f"; again: staff select --config '{folder.config}'")
    assert not folder.finished


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_start_changes_nothing_of_a_finished_run(tmp_path, overwrite):
    folder = begun(RunFolder(tmp_path / "x"), config(tmp_path))
    finish(folder, "coreset-0.1.jsonl")
    before = {name: (folder.path / name).read_bytes() for name in files(folder.path)}
    folder.start(config(tmp_path, keep=0.5, overwrite=overwrite), overwrite=overwrite)
    assert {name: (folder.path / name).read_bytes() for name in files(folder.path)} == before
    assert folder.finished


def test_another_selection_in_the_same_folder_keeps_the_scores(tmp_path):
    folder = begun(RunFolder(tmp_path / "x"), config(tmp_path))
    finish(folder, "coreset-0.1.jsonl")
    here = f"../{Path.cwd().name}/train.jsonl"  # the same file in other words
    other = config(tmp_path, keep=0.5, regions=7, batch_tokens=99, data=here)
    begun(folder, other)
    assert not folder.finished  # the manifest goes first: the run is unfinished again
    assert not folder.report.exists()  # nor may it tell of the selection before
    assert (folder.scores_small / "part-00000.parquet").is_file()
    assert build(SelectConfig, file=folder.config).keep == (0.5,)


CHANGES = [
    ({"phi": "adapter"}, "phi = 'last-value', now it is 'adapter'"),
    ({"small": "S2"}, "small = 'S', now it is 'S2'"),
    ({"seed": 1}, "seed = 0, now it is 1"),
    ({"max_length": 9}, r"max_length = \(not set\), now it is 9"),
]


@pytest.mark.parametrize(("change", "words"), CHANGES)
@pytest.mark.parametrize(
    "result",
    [
        *("adapter/staff.json", "scores/small/part-00000.parquet", "manifest.json"),
        ".adapter.partial/checkpoint-5",
    ],
)
def test_results_of_another_configuration_are_refused(tmp_path, change, words, result):
    folder = begun(RunFolder(tmp_path / "x"), config(tmp_path))
    (folder.path / result).parent.mkdir(parents=True, exist_ok=True)
    (folder.path / result).touch()
    with pytest.raises(RunError, match=words) as error:
        folder.start(config(tmp_path, **change))
    assert "--overwrite" in str(error.value)
    folder.start(config(tmp_path, **change), overwrite=True)


def test_a_seed_that_scores_do_not_depend_on_may_change(tmp_path):
    folder = begun(RunFolder(tmp_path / "x"), config(tmp_path, skip_finetune=True))
    finish(folder)
    folder.start(config(tmp_path, skip_finetune=True, seed=1))
    begun(folder, config(tmp_path, skip_finetune=True, phi="last-value-lora", overwrite=True))
    finish(folder)
    with pytest.raises(RunError, match="seed = 0, now it is 1"):
        folder.start(config(tmp_path, skip_finetune=True, phi="last-value-lora", seed=1))


@pytest.mark.parametrize("change", [change for change, _ in CHANGES])
def test_a_folder_without_results_takes_any_configuration(tmp_path, change):
    folder = begun(RunFolder(tmp_path / "x"), config(tmp_path))
    folder.scores_small.mkdir(parents=True)  # made, but nothing was scored
    begun(folder, config(tmp_path, **change))


def test_setting_bad_rows_aside_is_no_other_configuration(tmp_path):
    folder = begun(RunFolder(tmp_path / "x"), config(tmp_path))
    finish(folder)
    folder.start(config(tmp_path, on_bad_row="skip", batch_tokens=7))
    scoring = ScoreConfig(data="d", model="m", out=str(tmp_path / "s"))
    begun(RunFolder(tmp_path / "s"), scoring)
    finish(RunFolder(tmp_path / "s"))
    again = {"data": "d", "model": "m", "out": f"{tmp_path}/./s"}
    RunFolder(tmp_path / "s").start(
        ScoreConfig(**again, on_bad_row="skip", batch_tokens=7, device="cpu")
    )
    with pytest.raises(RunError, match="phi = 'last-value'"):
        RunFolder(tmp_path / "s").start(ScoreConfig(**again, phi="lm-head"))


def test_a_folder_of_another_command_is_refused(tmp_path):
    folder = RunFolder(tmp_path / "x")
    begun(folder, ScoreConfig(data="d", model="m", out=str(tmp_path / "x")))
    finish(folder)
    with pytest.raises(RunError, match="was made by staff score: choose another --out"):
        folder.start(config(tmp_path))
    begun(folder, config(tmp_path, overwrite=True))
    assert files(folder.path) == ["config.yaml"]


def test_overwriting_removes_what_a_run_leaves_and_nothing_else(tmp_path):
    folder = begun(RunFolder(tmp_path / "x"), config(tmp_path, keep=[0.1, 0.3]))
    finish(folder, "coreset-0.1.jsonl", "coreset-n40.csv")
    temporary = (
        *(".config.yaml.abc.part", ".adapter.partial/adapter_config.json"),
        *("scores/small/.part-00001.parquet.abc.part", "adapter/.staff.json.abc.part"),
    )
    mine = (
        *("notes.txt", "coreset-notes.txt", "coreset-0.7.jsonl", "tuned-mine/adapter_config.json"),
        *("evaluate-x/metrics.json", "random-0.1.jsonl", "coreset-0.1/x", "scores/plot.png"),
        *("adapter/README.md", "tokens/mine.txt", ".coreset-0.1-tuned.partial/checkpoint-1/x"),
    )
    for name in (*temporary, *mine, "coreset-0.3.jsonl"):  # the last: asked for by config.yaml
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / name).touch()
    begun(folder, config(tmp_path, overwrite=True, seed=1))
    assert files(folder.path) == sorted((*mine, "config.yaml"))
    assert not (folder.path / "scores" / "small").exists()


def test_overwriting_never_leaves_the_folder(tmp_path):
    folder = begun(RunFolder(tmp_path / "x"), config(tmp_path))
    (tmp_path / "coreset-0.1.jsonl").touch()
    folder.manifest.write_text('{"coresets": [{"path": "../coreset-0.1.jsonl"}, 3]}')
    begun(folder, config(tmp_path, overwrite=True))
    folder.manifest.write_text('{"coresets": [{"path": "../coreset-0.1.jsonl"}]}')
    begun(folder, config(tmp_path, overwrite=True))
    assert (tmp_path / "coreset-0.1.jsonl").exists()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["thesis.tex", ".thesis.partial"])
def test_somebody_elses_folder_is_refused(tmp_path, overwrite, name):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / name).write_text("")
    with pytest.raises(RunError, match="no staff run"):
        RunFolder(tmp_path / "x").start(config(tmp_path), overwrite=overwrite)
    with pytest.raises(RunError, match="is a file"):
        RunFolder(tmp_path / "x" / name).start(config(tmp_path))


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_project_with_a_config_of_its_own_is_somebody_elses(tmp_path, overwrite):
    theirs = {"config.yaml": "debug: true\n", "report.html": "mine"}
    for name, text in theirs.items():
        (tmp_path / name).write_text(text)
    asked = config(tmp_path, out=str(tmp_path), overwrite=overwrite)
    with pytest.raises(RunError, match="no staff run"):
        RunFolder(tmp_path).start(asked, overwrite=overwrite)
    with pytest.raises(RunError, match="no staff run"), RunFolder(tmp_path).lock():
        pass
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == theirs


def test_a_place_where_no_folder_can_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot be created: .*file is a file"):
        RunFolder(tmp_path / "file" / "x").start(config(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_without_permission_is_refused(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(StaffError, match="no permission to write"):
        RunFolder(tmp_path / "closed" / "x").start(config(tmp_path))


def test_what_a_killed_start_leaves_is_no_foreign_file(tmp_path):
    folder = RunFolder(tmp_path / "x")
    (folder.path / "tokens").mkdir(parents=True)
    for name in (".lock", ".stages.json", ".config.yaml.abc.part", "tokens/tokens-0.arrow"):
        (folder.path / name).touch()
    folder.start(config(tmp_path))
    (folder.path / "tokens" / "bpe.vocab").touch()  # somebody else's tokens
    with pytest.raises(RunError, match="no staff run"):
        folder.start(config(tmp_path))


@pytest.mark.parametrize("name", ["data", "adapter", "small", "target", "include", "exclude"])
def test_a_run_never_reads_what_it_replaces(tmp_path, name):
    folder = begun(RunFolder(tmp_path / "x"), config(tmp_path))
    (folder.path / "adapter").mkdir()
    with pytest.raises(RunError, match=f"{name} .* is in the folder this run writes to"):
        folder.start(config(tmp_path, **{name: str(folder.path / "adapter")}), overwrite=True)
    assert (folder.path / "adapter").is_dir()


def test_coresets_of_the_earlier_selection_go_and_nothing_else(tmp_path):
    folder = begun(RunFolder(tmp_path / "x"), config(tmp_path))
    finish(folder, "coreset-0.1.jsonl", "coreset-0.2.csv", "coreset-n40.jsonl")
    mine = ["coreset-0.7.jsonl", "coreset-notes.txt"]
    for name in mine:
        (folder.path / name).touch()
    (folder.path / "coreset-0.1-tuned").mkdir()
    begun(folder, config(tmp_path, keep=(0.2,), total=(40,)))
    assert folder.coreset("0.1").exists()  # until the new ones are about to be written
    begun(folder, config(tmp_path, keep=(0.2,), total=(40,)))  # after it was stopped there
    folder.remove_other_coresets(["0.2", "n40"], format="jsonl")
    left = sorted(p.name for p in folder.path.glob("coreset-*"))
    assert left == ["coreset-0.1-tuned", *mine[:1], "coreset-n40.jsonl", *mine[1:]]
    folder.remove_other_coresets([])  # no earlier selection any more
    assert folder.coreset("n40").exists()


def test_coresets_of_a_stopped_selection_go_too(tmp_path):
    folder = begun(RunFolder(tmp_path / "x"), config(tmp_path, keep=(0.3,)))
    finish(folder, "coreset-0.3.jsonl")
    begun(folder, config(tmp_path, keep=(0.1,)))
    folder.coreset("0.1").touch()  # and killed before its manifest
    begun(folder, config(tmp_path, keep=(0.5,)))
    folder.coreset("0.5").touch()
    folder.remove_other_coresets(["0.5"])
    assert [path.name for path in folder.path.glob("coreset-*")] == ["coreset-0.5.jsonl"]


def test_coresets_that_only_a_note_names_go_before_the_note(tmp_path, monkeypatch):
    folder = begun(RunFolder(tmp_path / "x"), config(tmp_path, keep=(0.3,)))
    finish(folder, "coreset-0.3.jsonl")
    begun(folder, config(tmp_path, keep=(0.1,)))  # and stopped: config.yaml names another coreset
    unlink = Path.unlink

    def killed(path, **how):
        if path.name.startswith("coreset-"):
            raise KeyboardInterrupt
        unlink(path, **how)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            folder.clear()
    folder.clear()
    assert not list(folder.path.glob("coreset-*"))


def test_half_written_folders_are_swept(tmp_path):
    folder = begun(RunFolder(tmp_path / "x"), config(tmp_path))
    spilled = folder.path / ".coreset-0.1.parquet.abc.part"
    spilled.mkdir()
    (spilled / "0.parquet").touch()
    (folder.path / ".manifest.json.abc.part").touch()
    folder.sweep()
    assert not list(folder.path.glob(".*.part"))


def test_outputs_are_what_is_there_of_a_run(tmp_path):
    folder = begun(RunFolder(tmp_path / "x"), config(tmp_path))
    folder.coreset("0.1", "csv").write_text("")
    folder.scores_small.mkdir(parents=True)
    (folder.path / "coreset-0.1-tuned").mkdir()
    for name in ("manifest.json", "notes.txt", "coreset-notes.txt", ".lock"):
        (folder.path / name).touch()
    assert [path.name for path in folder.outputs()] == ["config.yaml", "coreset-0.1.csv", "scores"]


def test_a_second_process_is_kept_out(tmp_path):
    code = f"from staff.runs.store import RunFolder\nwith RunFolder({str(tmp_path / 'x')!r}).lock(): pass"
    with RunFolder(tmp_path / "x").lock():
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        who = f"process {os.getpid()} on {platform.node()}, since 20"
        assert f"another staff process is running in {tmp_path / 'x'}: {who}" in second.stderr
        # It has not wiped out what the first one wrote.
        assert json.loads((tmp_path / "x" / ".lock").read_text())["pid"] == os.getpid()
    assert files(tmp_path / "x") == [".lock"]  # it stays: removing it would let two in
    with RunFolder(tmp_path / "x").lock():
        RunFolder(tmp_path / "x").start(config(tmp_path))  # its own lock is no foreign file


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    code = (
        "import os, signal\nfrom staff.runs.store import RunFolder\n"
        f"with RunFolder({str(tmp_path / 'x')!r}).lock(): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    dead = json.loads((tmp_path / "x" / ".lock").read_text())["pid"]
    with RunFolder(tmp_path / "x").lock():
        assert json.loads((tmp_path / "x" / ".lock").read_text())["pid"] == os.getpid() != dead


def test_somebody_elses_folder_gets_no_lock(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match="no staff run"), RunFolder(tmp_path).lock():
        pass
    assert files(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("kind", ["folder", "hard link"])
def test_a_lock_that_is_none_of_ours_is_left_alone(tmp_path, kind):
    folder, other = RunFolder(tmp_path / "run"), tmp_path / "other.txt"
    folder.path.mkdir()
    other.write_text("mine")
    if kind == "folder":
        (folder.path / ".lock").mkdir()
    else:
        (folder.path / ".lock").hardlink_to(other)
    with (
        pytest.raises(RunError, match=r"\.lock is a folder, or a file with several hard links"),
        folder.lock(),
    ):
        pass
    assert other.read_text() == "mine"


def refused(out, said):
    """A run in a new folder that is refused before its first result, or told who is at work."""
    folder, asked = RunFolder(out), config(out.parent, out=str(out))
    try:
        folder.check_same_config(asked)
        with folder.lock():
            begun(folder, asked)
            (out / "tokens").mkdir()
            (out / "rejected.jsonl").touch()
            raise StaffError("its own fault")
    except Exception as error:
        said.append(str(error))


@pytest.mark.parametrize("names", ["aaa", "abc"])
def test_runs_that_begin_at_once_and_are_refused(tmp_path, names, in_threads):
    """In one new folder, or side by side in one: none trips over what another removes again."""

    def begin(name):
        for _ in range(30):
            refused(tmp_path / "new" / name, said)

    said = []
    in_threads(*(partial(begin, name) for name in names), interval=1e-5)
    assert len(said) == 3 * 30
    assert [text for text in said if "is running in" not in text and text != "its own fault"] == []


def test_a_run_may_be_looked_at_while_it_begins(tmp_path):
    """What it leaves meanwhile is not taken for somebody else's, and may go meanwhile."""

    def begin():
        for _ in range(60):
            refused(tmp_path / "x", [])
        done.set()

    done, said = threading.Event(), []
    run = threading.Thread(target=begin)
    run.start()
    while not done.is_set():
        try:
            RunFolder(tmp_path / "x").check_same_config(config(tmp_path))
        except Exception as error:
            said.append(str(error))
    run.join()
    assert said == []


@pytest.mark.parametrize("error", [StaffError, ProcessGoneError])
def test_a_new_run_is_taken_away_only_if_it_was_refused(tmp_path, error):
    folder = RunFolder(tmp_path / "x")
    tokens = folder.path / "tokens" / "tokens.arrow"
    with suppress(error), folder.lock():
        begun(folder, config(tmp_path))
        tokens.parent.mkdir()
        tokens.touch()
        # All but the manifest, of a run without scores: left here, they would refuse the next one.
        for name in ("selection.parquet", "coreset-0.1.jsonl", "report.html"):
            (folder.path / name).touch()
        raise error("why")
    assert tokens.exists() is folder.path.exists() is (error is ProcessGoneError)
