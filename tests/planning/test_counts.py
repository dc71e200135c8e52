"""What --dry-run says: of the verbs that work on one file with one model, and of verification."""

import json
from pathlib import Path

import pytest

from staff import pipeline, planning
from staff.errors import ConfigError, DataError, RunError
from staff.planning.counts import most_verified
from staff.planning.estimate import estimate
from staff.runs.config import EvaluateConfig, FinetuneConfig, ScoreConfig, SelectConfig
from staff.runs.plan_config import PlanConfig


@pytest.fixture
def settings(e2e_file, family, tmp_path):
    columns = {"prompt_column": "mr", "response_column": "ref"}
    return {"data": str(e2e_file(20)), "model": family[0], "out": str(tmp_path / "out"), **columns}


def stages_of(plan):
    return {stage["name"]: (stage["rows"], stage.get("tokens")) for stage in plan["stages"]}


def test_fine_tuning_counts_every_epoch(settings):
    plan = planning.plan_one_stage(FinetuneConfig(**settings, epochs=2, batch_size=8))
    tokens = stages_of(plan)["read"][1]
    assert stages_of(plan)["fine-tune, 6 steps"] == (20, 2 * tokens)  # 8 + 8 + 4 rows, twice
    assert plan["files"] == [settings["out"]]


def test_fine_tuning_with_a_step_limit_counts_its_share(settings):
    plan = planning.plan_one_stage(FinetuneConfig(**settings, max_steps=5, batch_size=8))
    tokens = stages_of(plan)["read"][1]
    # 8 + 8 + 4 + 8 + 8 rows
    assert stages_of(plan)["fine-tune, 5 steps"] == (20, round(36 / 20 * tokens))
    plan = planning.plan_one_stage(FinetuneConfig(**settings, max_steps=3, batch_size=64))
    assert stages_of(plan)["fine-tune, 3 steps"] == (20, 3 * tokens)


def test_scoring_and_evaluating(settings):
    plan = planning.plan_one_stage(ScoreConfig(**settings))
    tokens = stages_of(plan)["read"][1]
    assert stages_of(plan)["score"] == (20, tokens)
    plan = planning.plan_one_stage(EvaluateConfig(**settings, metrics=("loss", "exact")))
    assert list(stages_of(plan)) == ["read", "loss", "generate, for exact"]
    assert plan["files"][0].endswith("items.parquet")
    plan = planning.plan_one_stage(EvaluateConfig(**{**settings, "out": None}, metrics=("exact",)))
    assert list(stages_of(plan)) == ["read", "generate, for exact"]
    assert plan["files"] == []


def test_what_would_go_wrong_is_told(settings, family):
    models = {"small": family[0], "target": family[1], "keep": (0.2,)}
    asked = SelectConfig(**{k: v for k, v in settings.items() if k != "model"}, **models)
    [_, regions] = planning.plan(asked)["warnings"]  # the first: plain text for a chat model
    assert regions.startswith("2 regions are too many for 18 rows")
    assert regions.endswith("and get equal shares")  # fewer would be none at all
    many = asked.model_copy(update={"regions": 50})
    assert planning.plan(many)["warnings"][1].endswith("give fewer --regions (about 2)")
    cut = asked.model_copy(update={"max_length": 80, "regions": 1, "on_bad_row": "skip"})
    [cut, chat] = planning.plan(cut)["warnings"]
    assert chat.startswith("the target has a chat template, but the data are not conversations")
    assert "responses are truncated at 80 tokens: raise --max-length, use models with" in cut
    assert cut.endswith("a longer context, shorten the prompts or leave those rows out")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"score_on": 0.5}, "10 scored rows are too few"),
        ({"quota_column": "place"}, "has no column 'place' for quotas"),
        ({"include": "x\n"}, "no usable row has the id 'x'"),
        ({"exclude": "".join(f"{n}\n" for n in range(17))}, "only 3 rows may be in it"),
        ({"exclude": "".join(f"{n}\n" for n in range(20))}, "no row is left to choose from"),
    ],
)
def test_what_the_run_refuses_is_refused(settings, family, tmp_path, asked, words):
    given = dict(asked)
    for name in {"include", "exclude"} & asked.keys():
        given[name] = str(tmp_path / name)
        (tmp_path / name).write_text(asked[name])
    data = tmp_path / "with-ids.jsonl"
    lines = Path(settings["data"]).read_text(encoding="utf-8").splitlines()
    rows = [json.dumps({**json.loads(line), "id": str(n)}) for n, line in enumerate(lines)]
    data.write_text("\n".join(rows), encoding="utf-8")
    columns = {**settings, "data": str(data), "id_column": "id"}
    del columns["model"]
    models = {"small": family[0], "target": family[1]}
    for plans, config in ((planning.plan, SelectConfig), (estimate, PlanConfig)):
        with pytest.raises((ConfigError, DataError), match=words):
            plans(config(**columns, **models, total=(4,), **given))


def test_responses_alone_are_counted_without_their_prompts(settings, family):
    columns = {k: v for k, v in settings.items() if k != "model"}
    asked = SelectConfig(**columns, small=family[0], target=family[1], keep=(0.2,), method="ifd")
    stages = stages_of(planning.plan(asked))
    assert 20 < stages["score responses alone"][1] < stages["score small"][1]


def test_what_selecting_again_refuses_is_refused(settings, tmp_path):
    columns = {k: v for k, v in settings.items() if k != "model"}
    asked = SelectConfig(**columns, method="random", keep=(0.2,))
    ids = tmp_path / "ids.txt"
    ids.write_text("nobody\n")
    with pytest.raises(ConfigError, match="no usable row has the id 'nobody'"):
        planning.plan(asked.model_copy(update={"include": str(ids)}))
    with pytest.raises(DataError, match="has no column 'origin' for quotas"):
        planning.plan(asked.model_copy(update={"quota_column": "origin"}))
    run = pipeline.select(asked)["config"]["out"]
    planning.plan(SelectConfig(scores=run, keep=0.3))
    with pytest.raises(RunError, match="has no scores: it was made by the method random"):
        planning.plan(SelectConfig(scores=run, keep=0.3, method="d2"))


def test_the_untuned_scores_are_those_the_run_makes(settings, family):
    columns = {k: v for k, v in settings.items() if k != "model"}
    asked = {**columns, "small": family[0], "target": family[1], "keep": (0.2,), "regions": 1}
    for skip in (False, True):  # a small model that is not fine-tuned has no other scores
        config = SelectConfig(**asked, verify_against="untuned", skip_finetune=skip)
        plan = planning.plan(config)
        assert config.scores_untuned is not skip
        assert ("score small untuned, at most" in stages_of(plan)) is not skip
        assert any(path.endswith("scores/untuned") for path in plan["files"]) is not skip


def test_without_models_nothing_is_said_of_them(settings):
    columns = {k: v for k, v in settings.items() if k != "model"}
    asked = SelectConfig(**columns, method="random", keep=(0.2,))
    assert planning.plan(asked)["warnings"] == []
    # Nor of models that a random draw does not look at, and that need not be here.
    asked = asked.model_copy(update={"small": "no/small", "target": "no/target"})
    assert planning.plan(asked)["warnings"] == []


@pytest.mark.parametrize(
    ("usable", "changes", "rows"),
    [
        (10_000, {}, 500),  # 50 regions of 10
        (300, {}, 130),  # 270 below the cut: 13 regions of twice 10 rows
        (300, {"regions": 50}, 240),  # 24 of them may have 11 rows
        (12, {}, 10),  # 11 below the cut: one region may hold them all
        (10, {}, 0),
        (10, {"verify_per_region": 9, "cut": 0.0}, 9),
        (300, {"verify_per_region": "auto", "verify_cap": 400}, 270),
    ],
)
def test_no_more_rows_are_verified_than_large_regions_have(usable, changes, rows):
    config = SelectConfig(
        data="x.jsonl", small="s", target="t", keep=(0.1,), out="runs/x", **changes
    )
    assert most_verified(config, usable) == rows
