"""A plan refuses what the selection would refuse, in its words, and a few things of its own."""

import pytest

from staff.errors import ConfigError
from staff.runs.config import SelectConfig
from staff.runs.plan_config import PlanConfig

BASE = {"data": "train.jsonl", "small": "S", "target": "T", "keep": (0.1,)}
TOGETHER = [
    ({"keep": None}, "nothing to choose"),
    ({"keep": [0.1, 0.10]}, "given twice"),
    ({"small": None}, "small is missing"),
    ({"target": None}, "target is missing"),
    ({"workers": 2}, "--workers 2 needs --executor ray"),
    ({"max_memory": "cpu=1GB"}, "--max-memory needs --device-map auto"),
    ({"device_map": "auto", "phi": "adapter"}, "--phi adapter needs a backward"),
    ({"fsdp": True, "quantize": "nf4"}, "leave out --quantize or --fsdp"),
    ({"fsdp": True, "small_quantize": "int8"}, "leave out --small-quantize or --fsdp"),
    ({"score_on": 0.5, "features": True}, "--features needs the small model to process"),
    ({"score_on": 0.5, "within": "spread"}, "--within spread needs the small model"),
    ({"score_on": 0.5, "method": "d2"}, "--method d2 needs the small model"),
    ({"verify_per_region": "auto", "regions": 2000}, "--verify-cap 2000"),
    ({"skip_finetune": True, "adapter": "a"}, "cannot be combined"),
]


@pytest.mark.parametrize(("change", "words"), TOGETHER, ids=[words for _, words in TOGETHER])
def test_what_a_selection_refuses_its_plan_refuses_in_the_same_words(change, words):
    told = []
    for kind, more in ((SelectConfig, {"out": "runs/x"}), (PlanConfig, {})):
        with pytest.raises(ConfigError, match=words) as refusal:
            kind(**{**BASE, **change, **more})
        told.append(str(refusal.value))
    assert told[0] == told[1]


def test_a_plan_needs_no_folder_and_a_target_whatever_the_method():
    assert PlanConfig(**BASE).out is None
    with pytest.raises(ConfigError, match="target is missing: give --target MODEL"):
        PlanConfig(**{**BASE, "target": None}, method="grand")
    with pytest.raises(ConfigError, match=r"e\.g\. staff plan train\.jsonl"):
        PlanConfig(**{**BASE, "data": None})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"executor": "ray"}, "--executor ray uses its own workers: leave out --processes"),
        ({"probe": True}, "--probe times one process here: leave out --processes"),
    ],
)
def test_processes_are_those_of_torchrun(change, words):
    assert PlanConfig(**BASE, **change).processes == 1
    with pytest.raises(ConfigError, match=words):
        PlanConfig(**BASE, **change, processes=2)
