"""The verbs that pass on and print: score, finetune, evaluate, why, report, demo."""

import json
import sys
import types
from pathlib import Path

import pytest

import staff
from staff.cli.main import main
from staff.runs.compare_config import CompareConfig
from staff.runs.compare_folder import CompareFolder
from staff.runs.config import FinetuneConfig
from staff.runs.manifest import begin, read_manifest, write_manifest


@pytest.fixture(autouse=True)
def models_pass(monkeypatch):
    monkeypatch.setattr("staff.models.folder.check_model_folder", lambda path, **_: None)


def test_score(pipeline, data, tmp_path, capsys):
    pipeline.answer = {"format": 1, "command": "score", "files": {"scores.parquet": "0"}}
    assert (
        main(["score", str(data), "--model", "m", "--out", str(tmp_path / "s"), "--features"]) == 0
    )
    [(name, config, _)] = pipeline.calls
    assert (name, config.model, config.features) == ("score", "m", True)
    assert "scores.parquet" in capsys.readouterr().out


def test_finetune_names_its_folder_after_the_data(pipeline, data):
    pipeline.answer = {"rows": 300}
    assert main(["finetune", str(data), "--model", "m"]) == 0
    assert pipeline.calls[0][1].out == str(data.with_name("train-tuned"))
    assert main(["finetune", str(data.with_name("tra*.jsonl")), "--model", "m"]) == 0
    assert pipeline.calls[1][1].out == f"{data.parent}-tuned"
    assert FinetuneConfig(data="../*.jsonl", model="m").out == "data-tuned"
    named = data.rename(data.with_name("a[1].jsonl"))  # no pattern
    assert FinetuneConfig(data=str(named), model="m").out == str(data.with_name("a[1]-tuned"))


def test_finetune(pipeline, data, capsys):
    pipeline.answer = {"adapter": "o", "rows": 300}
    assert main(["finetune", str(data), "--model", "m", "--out", "o", "--epochs", "2"]) == 0
    assert pipeline.calls[0][1].epochs == 2
    assert capsys.readouterr().out == "adapter  o\nrows     300\n"


def test_evaluate_prints_its_figures_even_when_quiet(pipeline, data, capsys):
    pipeline.answer = {"rows": 300, "loss": 1.25}
    assert (
        main(["evaluate", str(data), "--model", "m", "--metrics", "loss", "exact", "--quiet"]) == 0
    )
    assert pipeline.calls[0][1].metrics == ("loss", "exact")
    assert capsys.readouterr().out == "rows  300\nloss  1.25\n"


def comparison():
    """compare.json of one method that was compared with nothing."""
    interval = {"value": 1.5, "low": 1.0, "high": 2.0}
    row = {"metric": "loss", "method": "staff", "keep": 0.1, "rows": 9, "seeds": 1}
    row |= {"items": 9, **interval}
    row |= dict.fromkeys(("best", "best_verdict", "random_verdict"))
    ends = ("difference", "low", "high")
    row |= {f"{name}_{end}": None for name in ("random", "best") for end in ends}
    row |= dict.fromkeys(("selection_seconds", "tuning_seconds", "selection_to_tuning"))
    facts = {"data": {"path": "train.jsonl"}, "test": {"path": "test.jsonl"}, "results": [row]}
    return {**begin("compare", {"seeds": 1, "full": False}, seed=0), **facts}


def test_compare(data, tmp_path, capsys, monkeypatch):
    calls = []

    def compare(config, *, progress, say):
        calls.append(config)
        return {**comparison(), "config": config.model_dump()}

    stand_in = types.SimpleNamespace(compare=compare, plan=lambda config, progress: {"cells": 7})
    monkeypatch.setitem(sys.modules, "staff.compare.run", stand_in)
    monkeypatch.setitem(sys.modules, "staff.compare.plan", stand_in)
    command = ["compare", str(data), "--test", str(data), "--small", "s", "--target", "t"]
    command += ["--keep", "0.1", "0.2", "--no-full", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert (calls[0].keep, calls[0].full, calls[0].test) == ((0.1, 0.2), False, str(data))
    assert "1.500 [1.000, 2.000]" in capsys.readouterr().out
    assert main([*command, "--dry-run"]) == 0
    assert "Cells  7" in capsys.readouterr().out
    assert len(calls) == 1
    assert main([*command[:2], "--test", "nowhere.jsonl", *command[4:]]) == 3
    assert "nowhere.jsonl" in capsys.readouterr().err


def test_why(finished, capsys):
    assert main(["why", str(finished[0]), "--row", "0"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Row 0 of train.jsonl, id id-0\n\n0.1: Row id-0 is ")
    assert "\n\n0.3: Row id-0 is " in out


def test_report(finished, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["report", str(finished[0])]) == 0
    out, said = capsys.readouterr()
    assert "Regions   " in out
    assert "Budgets" in out
    page = finished[0] / "report.html"
    assert f"Report: {page}. Prompts and responses are missing: " in said
    assert "Prompts and responses are missing" in page.read_text(encoding="utf-8")


def test_report_does_not_replace_a_page_by_a_poorer_one(finished, capsys):
    page = finished[0] / "report.html"
    page.write_text("whole")
    assert main(["report", str(finished[0])]) == 0
    said = capsys.readouterr().err
    assert f"{page} was not rewritten: " in said
    assert page.read_text() == "whole"


def test_report_and_select_inside_the_run_folder(finished, tmp_path, capsys, monkeypatch):
    manifest = read_manifest(finished[0])
    manifest["data"]["reading"] = {"format": "text"}  # or the page could not quote rows anyway
    write_manifest(finished[0] / "manifest.json", manifest)
    monkeypatch.chdir(finished[0])
    assert main(["report", "."]) == 0
    out, said = capsys.readouterr()
    assert " --out ../run-tuned-0.1" in out
    assert "no such file: train.jsonl" in said
    assert said.endswith("from the folder that it was started in: run staff report there.\n")
    again = tmp_path / "again"
    assert main(["select", "--scores", ".", "--keep", "0.5", "--out", str(again)]) == 3
    said = capsys.readouterr().err
    assert "no such file: train.jsonl" in said
    assert said.endswith("from the folder that it was started in: run this command there.\n")
    assert not again.exists()


def test_report_of_a_comparison(tmp_path, capsys):
    folder = tmp_path / "compared"
    write_manifest(folder / "compare.json", comparison())
    assert main(["report", f"{folder}/"]) == 0
    out, said = capsys.readouterr()
    assert "1.500 [1.000, 2.000]" in out
    assert "  report.html" in out
    assert said == f"Report: {folder / 'report.html'}.\n"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<title>Comparison on train.jsonl</title>" in page
    (folder / "compare.json").write_text("{")
    assert main(["report", str(folder)]) == 5
    assert "damaged" in capsys.readouterr().err


def test_report_of_an_unfinished_comparison_says_what_is_missing(tmp_path, capsys):
    given = {"data": "d", "test": "e", "target": "t", "methods": ("random",), "keep": (0.1,)}
    config = CompareConfig(**given, seeds=1, out=str(tmp_path))
    CompareFolder(tmp_path).begin_writing(config)
    write_manifest(tmp_path / "cells" / "untuned" / "cell.json", {})
    assert main(["report", str(tmp_path)]) == 5
    said = capsys.readouterr().err
    assert (
        "2 of 3 cells are missing: full-seed0, random-0.1-seed0; resume with staff compare" in said
    )
    assert not (tmp_path / "report.html").exists()


def test_report_of_scores_is_text_only(tmp_path, capsys):
    write_manifest(tmp_path / "manifest.json", begin("score", {}, seed=0) | {"files": {"a": "1"}})
    assert main(["report", str(tmp_path)]) == 0
    assert not (tmp_path / "report.html").exists()


def test_demo(monkeypatch, capsys):
    calls = []

    def run(out, *, overwrite, progress, say):
        calls.append(out)
        methods = {
            "untuned": {"rows": 400, "loss": {"value": 5.0}},
            "STAFF": {
                "rows": 400,
                "loss": {"value": 1.5},
                "rougeL": {"value": 40.0},
                "tuning": {"rows": 7},
            },
            "random": {
                "rows": 400,
                "loss": {"value": 1.6},
                "rougeL": {"value": 41.0},
                "tuning": {"rows": 7},
            },
        }
        return {
            "format": 1,
            "command": "select",
            "seed": 0,
            "comparison": {
                "methods": methods,
                "difference": {"loss": [-0.1, -0.2, -0.05], "rougeL": [-1.0, -2.0, 0.5]},
            },
            "selection_to_tuning": {
                "selection_seconds": 60.0,
                "estimated_tuning_seconds": 120.0,
                "measured_tokens_per_second": 1000.0,
                "ratio": 0.5,
            },
        }

    monkeypatch.setattr(staff, "demo", types.SimpleNamespace(run=run), raising=False)
    assert main(["demo", "--out", "there"]) == 0
    assert calls == [Path("there")]
    out = capsys.readouterr().out
    # A lower loss is better, and its interval excludes 0; that of ROUGE-L does not.
    assert "-0.100 nats, 95 % interval -0.200 to -0.050: STAFF is better" in out
    assert "no significant difference" in out
    assert "selection-to-tuning ratio 0.50" in out


@pytest.mark.parametrize("verb", ["score", "finetune", "evaluate"])
def test_dry_run_only_plans(pipeline, data, tmp_path, capsys, verb):
    pipeline.answer = {"rows": 300, "stages": [{"name": verb, "rows": 300}], "files": ["there"]}
    assert main([verb, str(data), "--model", "m", "--out", str(tmp_path / "x"), "--dry-run"]) == 0
    assert [name for name, _, _ in pipeline.calls] == ["plan_one_stage"]
    assert "Nothing was run." in capsys.readouterr().out
    assert not (tmp_path / "x").exists()


NOTES = {"score": "manifest.json", "finetune": "staff.json", "evaluate": "metrics.json"}


@pytest.mark.parametrize("verb", NOTES)
def test_a_dry_run_says_that_the_result_is_there(pipeline, data, tmp_path, capsys, verb):
    out = tmp_path / "x"
    out.mkdir()
    (out / NOTES[verb]).write_text(json.dumps({"command": verb, "made_from": "a hash"}))
    asked = [verb, str(data), "--model", "m", "--out", str(out)]
    if verb == "score":  # which leaves a run folder
        assert main([*asked, "--print-config"]) == 0
        (out / "config.yaml").write_text(capsys.readouterr().out)
    pipeline.answer = True  # of `single.is_finished`
    assert main([*asked, "--dry-run"]) == 0
    assert [name for name, _, _ in pipeline.calls] == ["is_finished"]
    assert f"nothing would be: {out} is already finished" in capsys.readouterr().out


def test_report_shows_what_the_demo_found(finished, capsys):
    folder = finished[0]
    methods = {"STAFF": {"rows": 5, "loss": {"value": 1.0}, "tuning": {"rows": 2}}}
    found = {
        "comparison": {
            "methods": methods,
            "difference": {"loss": [-0.1, -0.2, -0.05], "rougeL": [0.0, -1.0, 1.0]},
        },
        "selection_to_tuning": {
            "selection_seconds": 60.0,
            "estimated_tuning_seconds": 120.0,
            "measured_tokens_per_second": 1000.0,
            "ratio": 0.5,
        },
    }
    (folder / "comparison.json").write_text(json.dumps(found))
    assert main(["report", str(folder)]) == 0
    assert "STAFF is better" in capsys.readouterr().out
    (folder / "comparison.json").write_text("{")
    assert main(["report", str(folder)]) == 5
    assert "damaged" in capsys.readouterr().err
