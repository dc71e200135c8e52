"""`--verify-per-region auto` through the pipeline: parts, restarts, selecting again."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from staff import pipeline, planning, select_coreset
from staff.cli.main import main
from staff.cli.story import tell
from staff.errors import ConfigError
from staff.models import load
from staff.reports.text import render
from staff.rng import keys_of_ids
from staff.runs.config import SelectConfig
from staff.runs.manifest import read_manifest
from staff.selectors import choose_rows, stratify

ROWS = 120
SETTINGS = {
    "prompt_column": "mr", "response_column": "ref", "keep": 0.3, "regions": 4, "dtype": "float32",
    "skip_finetune": True, "verify_per_region": "auto", "verify_tolerance": 0.004, "shard_rows": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(e2e_file):
    return e2e_file(ROWS)


@pytest.fixture(scope="module")
def models(family):
    return {"small": family[0], "target": family[1]}


@pytest.fixture(scope="module")
def run(tmp_path_factory, data, models):
    return select_coreset(data, out=tmp_path_factory.mktemp("runs") / "x", **models, **SETTINGS)


def parts(folder):
    return sorted((folder / "scores" / "target").glob("part-*.parquet"))


def test_rounds_are_told_and_their_rows_are_those_of_the_priorities(run):
    manifest, table = read_manifest(run.folder), run.table()
    rounds = manifest["verification"]["rounds"]
    assert len(rounds) > 1
    assert manifest["target_rows_scored"] == rounds[-1]["rows"] == table["verified"].sum()
    assert manifest["verification"]["stable"] is (rounds[-1]["error"] <= 0.004)
    assert manifest["proxy"]["budget_error"] == rounds[-1]["error"]
    assert [s["name"] for s in manifest["stages"]].count("verify on target") == 1
    stage = next(s for s in manifest["stages"] if s["name"] == "verify on target")
    assert stage["rows"] == rounds[-1]["rows"]
    assert stage["tokens"] == table["tokens"][table["verified"]].sum()
    pool = stratify(table["score_small"], regions=4, keys=keys_of_ids(table["id"], 0))
    counts = np.array([region["verified"] for region in manifest["regions"]])
    drawn = choose_rows(pool, per_region=counts, keys=keys_of_ids(table["id"], 0))
    assert np.flatnonzero(table["verified"]).tolist() == drawn.tolist()
    text = render(manifest, folder="runs/x", width=100)
    assert f"{rounds[-1]['rows']} rows verified in {len(rounds)} rounds" in " ".join(text.split())


def test_every_row_is_scored_once_in_the_parts_of_its_round(run):
    rounds = [one["rows"] for one in run.manifest["verification"]["rounds"]]
    positions = [pq.read_table(part)["position"].to_pylist() for part in parts(run.folder)]
    together = np.concatenate(positions)
    assert len(together) == len(set(together.tolist())) == rounds[-1]
    ends = np.cumsum([len(part) for part in positions]).tolist()
    assert set(rounds) <= set(ends)  # each round ends with a part
    assert max(map(len, positions)) <= 8


def test_the_model_is_loaded_once_for_all_rounds(run, data, models, tmp_path, monkeypatch):
    loaded = []
    original = load.load_model
    monkeypatch.setattr(
        load, "load_model", lambda path, **given: loaded.append(path) or original(path, **given)
    )
    again = select_coreset(data, out=tmp_path / "y", **models, **SETTINGS)
    assert loaded == [models["small"], models["target"]]
    differ = {
        name for name, digest in run.manifest["files"].items()
        if again.manifest["files"][name] != digest
    }  # fmt: skip
    assert differ == {"config.yaml"}


def test_what_is_there_is_not_scored_again(run, data, models, tmp_path):
    """Parts of a round that is not known to be wanted yet are kept until it is."""
    out = tmp_path / "x"
    shutil.copytree(run.folder, out)
    middle = parts(out)[1]
    middle.unlink()
    (out / "manifest.json").unlink()
    kept = {path: path.stat().st_ino for path in parts(out)}
    again = select_coreset(data, out=out, **models, **SETTINGS)
    assert {path: path.stat().st_ino for path in parts(out) if path != middle} == kept
    differ = {
        name for name, digest in run.manifest["files"].items()
        if again.manifest["files"][name] != digest
    }  # fmt: skip
    assert differ == {"config.yaml"}
    stage = next(s for s in again.manifest["stages"] if s["name"] == "verify on target")
    assert not stage["reused"]
    (out / "report.html").unlink()  # or there would be nothing to do
    third = select_coreset(data, out=out, **models, **SETTINGS)
    stages = {s["name"]: s for s in third.manifest["stages"]}
    assert stages["verify on target"] == stage | {"reused": True}


def test_parts_of_other_settings_go(run, data, models, tmp_path):
    out = tmp_path / "x"
    shutil.copytree(run.folder, out)
    many = len(parts(out))
    less = select_coreset(data, out=out, **models, **SETTINGS | {"verify_tolerance": 0.5})
    assert len(parts(out)) < many
    scored = sum(pq.read_metadata(part).num_rows for part in parts(out))
    assert scored == less.manifest["target_rows_scored"]
    fixed = select_coreset(data, out=out, **models, **SETTINGS | {"verify_per_region": 3})
    assert "verification" not in fixed.manifest
    assert len(parts(out)) == 2


def test_selecting_again_uses_all_that_is_there(run, tmp_path):
    again = pipeline.reselect(
        SelectConfig(scores=str(run.folder), keep=0.3, out=str(tmp_path / "a"))
    )
    name = "coreset-0.3.jsonl"
    assert (tmp_path / "a" / name).read_bytes() == (run.folder / name).read_bytes()
    assert again["verification"]["rounds"] == run.manifest["verification"]["rounds"][-1:]
    assert again["target_rows_scored"] == 0
    assert again["config"]["skip_finetune"] is True
    assert again["proxy"] == run.manifest["proxy"]
    fixed = pipeline.reselect(
        SelectConfig(scores=str(run.folder), keep=0.3, verify_per_region=5, out=str(tmp_path / "b"))
    )
    assert "verification" not in fixed
    assert all(region["verified"] <= 5 for region in fixed["regions"])


def test_untuned_scores_come_in_the_same_rounds(data, models, tmp_path):
    settings = {**SETTINGS, "skip_finetune": False, "epochs": 1, "verify_against": "untuned"}
    run = select_coreset(data, out=tmp_path / "x", **models, **settings)
    table = run.table()
    assert np.array_equal(~np.isnan(table["score_untuned"]), table["verified"])
    names = [stage["name"] for stage in run.manifest["stages"]]
    assert names[4:6] == ["verify on target", "score small untuned"]
    rows = {s["name"]: s["rows"] for s in run.manifest["stages"]}
    assert rows["verify on target"] == rows["score small untuned"] == table["verified"].sum()
    assert run.manifest["proxy"]["compared"] == "untuned"


def test_a_row_of_such_a_run_is_explained(run):
    for row in range(0, ROWS, 7):
        assert "nan" not in tell(run.folder, id=None, row=row)


def test_a_plan_counts_the_cap(data, models, tmp_path):
    config = SelectConfig(
        data=str(data), out=str(tmp_path / "p"), **models, **{**SETTINGS, "verify_cap": 50}
    )
    assert planning.plan(config)["stages"][-2]["rows"] == 50
    # Of regions there are as many as the rows allow, not the 50 of a large file.
    few = config.model_copy(update={"regions": "auto", "verify_cap": 24})
    for refuses in (planning.plan, pipeline.select):
        with pytest.raises(ConfigError, match="--verify-cap 24: the first 5 rows of each of 5 reg"):
            refuses(few)
    assert not (tmp_path / "p" / "scores").exists()
    enough = few.model_copy(update={"verify_cap": 25})
    assert planning.plan(enough)["stages"][-2]["rows"] == 25


def test_a_cap_below_the_first_round_is_refused_before_anything_is_done(
    data, models, tmp_path, capsys
):
    command = ["select", str(data), "--small", models["small"], "--target", models["target"]]
    command += ["--keep", "0.1", "--out", str(tmp_path / "x"), "--verify-per-region", "auto"]
    assert main([*command, "--regions", "50", "--verify-cap", "100"]) == 2
    assert capsys.readouterr().err == (
        "error: --verify-cap 100: the first 5 rows of each of 50 regions are 250; raise the cap or "
        "lower the number of regions\n"
    )
    assert not (tmp_path / "x").exists()


def test_a_manifest_of_an_earlier_version_is_read(run, tmp_path, capsys):
    manifest = json.loads((run.folder / "manifest.json").read_text())
    for key in ("proxy", "verification"):
        del manifest[key]
    for key in ("verify_tolerance", "verify_cap"):
        del manifest["config"][key]
    manifest["config"]["verify_per_region"] = 10
    old = tmp_path / "old"
    old.mkdir()
    for name in ("selection.parquet", "config.yaml"):
        (old / name).write_bytes((run.folder / name).read_bytes())
    (old / "manifest.json").write_text(json.dumps(manifest))
    assert main(["report", str(old)]) == 0
    out = capsys.readouterr().out
    assert "Proxy" not in out
    assert "Rank correlation (Spearman)" in (old / "report.html").read_text(encoding="utf-8")
    again = select_coreset(scores=old, keep=0.3, out=tmp_path / "again")
    assert again.manifest["config"]["verify_cap"] == 2000
