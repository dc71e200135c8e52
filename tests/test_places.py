"""Names and links in folders of runs and data lead nowhere else, and data never name a file."""

import json
import re
import shutil

import pytest
from datasets import Dataset, DatasetDict

from staff import select_coreset
from staff.cli.main import main
from staff.data.files import open_source
from staff.errors import DataError, RunError
from staff.runs.config import SelectConfig
from staff.runs.manifest import read_manifest
from staff.runs.store import RunFolder
from staff.stored import _root

ROWS = [{"prompt": f"p{i}", "response": f"r{i}"} for i in range(20)]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def outside(tmp_path):
    """A folder of somebody else's files under the names that runs give theirs."""
    folder = tmp_path / "outside"
    for name in ("file", "part-00000.parquet", "adapter_config.json", "small/part-00000.parquet"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("precious")
    return folder


def contents(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


@pytest.fixture
def run(data, tmp_path):
    """The folder of a finished run that needed no model."""
    out = tmp_path / "run"
    select_coreset(data, method="random", keep=0.5, out=out)
    return out


def again(run, data):
    return ["select", str(data), "--method", "random", "--keep", "0.2", "--out", str(run)]


LINKS = {
    "scores": ".",
    "scores/small": "small",
    "scores/small/part-00000.parquet": "part-00000.parquet",
    "adapter": ".",
    "adapter/adapter_config.json": "adapter_config.json",
    "tokens": ".",
    "coreset-0.5.jsonl": "file",
    "selection.parquet": "file",
    "rejected.jsonl": "file",
    "report.html": "file",
    "config.yaml": "file",
    "manifest.json": "file",
    ".lock": "file",
    ".stages.json": "file",
    ".inputs.json": "file",
    ".adapter.partial": ".",
    ".adapter.cached.partial": ".",
    "cells": ".",
    "seed-0": ".",
}


@pytest.mark.parametrize(("name", "target"), LINKS.items())
def test_a_link_out_of_a_run_folder_is_not_followed(run, data, outside, capsys, name, target):
    link = run / name
    link.unlink(missing_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside / target)
    before = contents(outside)
    commands = [
        again(run, data),
        [*again(run, data), "--overwrite"],
        ["report", str(run)],
        ["why", str(run), "--row", "1"],
        ["select", "--scores", str(run), "--keep", "0.3"],
    ]
    for command in commands:
        assert main(command) == 5, command
        said = capsys.readouterr().err
        assert f"{link} is a link to a place outside {run} and is not followed" in said
    assert contents(outside) == before
    assert link.is_symlink()


def test_links_that_stay_inside_or_are_the_users_do_no_harm(run, data, outside, tmp_path):
    (run / "coreset-0.5.jsonl").rename(run / "kept.jsonl")
    (run / "coreset-0.5.jsonl").symlink_to("kept.jsonl")
    (run / "notes").symlink_to(outside)  # no name of ours
    before = contents(outside)
    assert main(["report", str(run)]) == 0
    assert main([*again(run, data), "--overwrite"]) == 0
    assert contents(outside) == before
    assert (run / "notes").is_symlink()
    # A folder that is a link is where the user wants it.
    moved = run.rename(tmp_path / "elsewhere")
    run.symlink_to(moved)
    assert main(again(run, data)) == 0
    assert (moved / "coreset-0.2.jsonl").is_file()


def test_a_second_process_empties_no_file(run):
    """The lock file says who holds it; one that is refused leaves it as it is."""
    with RunFolder(run).lock():
        held = (run / ".lock").read_text()
        with pytest.raises(RunError, match="is running in"), RunFolder(run).lock():
            pass
        assert (run / ".lock").read_text() == held


@pytest.mark.parametrize(
    "name", ["../outside/file", "/etc/passwd", "scores/../../x", "coreset-1/../x", None]
)
def test_a_manifest_names_no_coreset_elsewhere(run, outside, capsys, name):
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["coresets"][0]["path"] = name
    (run / "manifest.json").write_text(json.dumps(manifest))
    told = "which is not a coreset of a run|coresets.0.path has an unexpected value"
    with pytest.raises(RunError, match=told):
        read_manifest(run)
    for command in (["report", str(run)], ["select", "--scores", str(run), "--keep", "0.3"]):
        assert main(command) == 5
        assert re.search(told, capsys.readouterr().err)


def test_overwriting_removes_no_coreset_that_a_manifest_names_elsewhere(run, data, outside):
    manifest = json.loads((run / "manifest.json").read_text())
    names = ["../outside/file", "../outside/coreset-0.5.jsonl", str(outside / "file")]
    manifest["coresets"] += [{"name": "x", "path": name} for name in names]
    (run / "manifest.json").write_text(json.dumps(manifest))
    (outside / "coreset-0.5.jsonl").write_text("precious")
    before = contents(outside)
    assert main([*again(run, data), "--overwrite"]) == 0
    assert contents(outside) == before


def test_runs_that_name_each_other_as_their_origin(run, tmp_path):
    manifest = json.loads((run / "manifest.json").read_text())
    other = tmp_path / "other"
    shutil.copytree(run, other)
    for folder, origin in ((run, other), (other, run)):
        manifest["config"]["scores"] = str(origin)
        (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=r"its manifest\.json was edited"):
        _root(SelectConfig(scores=str(run), keep=(0.2,), method="d2"))


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "saved"
    Dataset.from_list(ROWS).save_to_disk(folder)
    return folder


def first_file(folder):
    return next(folder.glob("*.arrow"))


def test_a_link_out_of_a_data_folder_is_not_followed(saved, tmp_path):
    file = first_file(saved)
    file.rename(tmp_path / "elsewhere.arrow")
    file.symlink_to(tmp_path / "elsewhere.arrow")
    with pytest.raises(DataError, match="outside the folder or is a link that leads out"):
        open_source(saved)


@pytest.mark.parametrize("name", ["../elsewhere.arrow", "x/../../elsewhere.arrow", "absolute"])
def test_a_data_folder_names_no_file_elsewhere(saved, tmp_path, name):
    first_file(saved).rename(tmp_path / "elsewhere.arrow")
    named = str(tmp_path / "elsewhere.arrow") if name == "absolute" else name
    state = json.loads((saved / "state.json").read_text())
    state["_data_files"] = [{"filename": named}]
    (saved / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="outside the folder or is a link that leads out"):
        open_source(saved)


def test_a_split_that_is_a_link_out_is_not_followed(tmp_path):
    folder = tmp_path / "saved"
    DatasetDict({"train": Dataset.from_list(ROWS)}).save_to_disk(folder)
    assert len(list(open_source(folder).records())) == 20
    (folder / "train").rename(tmp_path / "elsewhere")
    (folder / "train").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="is a link that leads out"):
        open_source(folder)


def test_a_data_folder_that_is_a_link_is_the_users_own(saved, tmp_path):
    (tmp_path / "link").symlink_to(saved)
    assert len(list(open_source(tmp_path / "link").records())) == 20


def test_nothing_in_the_data_becomes_the_name_of_a_file(tmp_path):
    """Ids, sources, strata and columns that look like paths; every file has a name of ours."""
    names = [
        "../../escaped",
        "/tmp/escaped",
        "..",
        "a/b",
        "a\\b",
        "~",
        "a\x00b",
        "con",
        "x" * 300,
        "{x}",
    ]
    data = tmp_path / "in" / "train.jsonl"
    data.parent.mkdir()
    rows = [
        {"prompt": name, "response": name, "../id": f"{name}{i}", "../source": name}
        for i in range(3)
        for name in names
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": "../bad"}]))
    out = tmp_path / "a" / "b" / "run"
    select_coreset(
        data, method="random", keep=0.5, total=3, out=out, id_column="../id", on_bad_row="skip",
        source_column="../source", quota_column="../source",
    )  # fmt: skip
    assert main(["why", str(out), "--id", "../../escaped0"]) == 0
    assert main(["report", str(out)]) == 0
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == sorted(
        [
            *(
                ".inputs.json",
                ".lock",
                "config.yaml",
                "coreset-0.5.jsonl",
                "coreset-n3.jsonl",
                "manifest.json",
            ),
            *("rejected.jsonl", "report.html", "selection.parquet", "train.jsonl"),
        ]
    )
