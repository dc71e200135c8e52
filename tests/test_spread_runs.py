"""Whole commands on models that are spread: another place, the same results."""

import numpy as np
import pytest

from staff import single
from staff.pipeline import select
from staff.runs.config import EvaluateConfig, FinetuneConfig, ScoreConfig, SelectConfig
from staff.runs.store import RunFolder
from staff.scores.shards import read_scores

COLUMNS = {"prompt_column": "mr", "response_column": "ref", "dtype": "float32", "device": "cpu"}
SPREAD = {"device_map": "auto", "max_memory": "cpu=10MB"}  # of 16: the target's blocks on disk


@pytest.fixture(scope="module")
def data(e2e_file):
    return str(e2e_file(24))


def test_scores(data, family, tmp_path):
    for name, where in (("whole", {}), ("spread", SPREAD)):
        out = str(tmp_path / name)
        single.score(ScoreConfig(data=data, model=family[1], out=out, **COLUMNS, **where))
    whole, spread = (
        read_scores(RunFolder(tmp_path / n).scores_small).columns for n in ("whole", "spread")
    )
    np.testing.assert_allclose(spread["effort"], whole["effort"], rtol=1e-5)


def test_a_selection_and_the_scores_it_took(data, family, tmp_path):
    settings = {
        "data": data, "small": family[0], "target": family[1], "keep": (0.5,), "regions": 3,
        "verify_per_region": 4, "skip_finetune": True, **COLUMNS,
    }  # fmt: skip
    whole = select(SelectConfig(**settings, out=str(tmp_path / "x")))
    # The scores do not depend on where a model lies: nothing is done again.
    again = select(SelectConfig(**settings, **SPREAD, out=str(tmp_path / "x")))
    reused = {stage["name"]: stage.get("reused") for stage in again["stages"]}
    assert reused["score small"]
    assert reused["verify on target"]
    spread = select(SelectConfig(**settings, **SPREAD, out=str(tmp_path / "y")))
    assert whole["target_rows_scored"] == spread["target_rows_scored"] > 0
    assert whole["files"]["coreset-0.5.jsonl"] == spread["files"]["coreset-0.5.jsonl"]


def test_an_evaluation_with_an_adapter(data, family, tmp_path):
    tuned = FinetuneConfig(
        data=data, model=family[1], out=str(tmp_path / "tuned"), max_steps=2, learning_rate=1e-2,
        **COLUMNS,
    )  # fmt: skip
    single.finetune(tuned)
    found = [
        single.evaluate(
            EvaluateConfig(
                data=data, model=family[1], adapter=tuned.out, metrics=("loss", "rougeL"),
                max_new_tokens=4, **COLUMNS, **where,
            )
        )
        for where in ({}, SPREAD)
    ]  # fmt: skip
    assert found[1]["loss"]["value"] == pytest.approx(found[0]["loss"]["value"], rel=1e-5)
    assert found[1]["rougeL"]["value"] == pytest.approx(found[0]["rougeL"]["value"], abs=1e-9)
