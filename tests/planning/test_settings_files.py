"""The settings in examples/settings: they can be read, and what they say of a plan is so."""

import json
import re
import shutil
from pathlib import Path

import pytest

from staff.models.families import SIZES, members
from staff.planning.estimate import estimate
from staff.runs.config import FinetuneConfig, SelectConfig
from staff.runs.config_file import build
from staff.runs.plan_config import PlanConfig

FILES = Path(__file__).parents[2] / "examples" / "settings"
DEVICES = {"24gb": "rtx-4090", "80gb": "h100-80gb"}


@pytest.fixture(scope="module")
def models(tmp_path_factory, family):
    """Folders without weights of the sizes that the files name: (small, target)."""
    found = []
    for name in ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B"):
        folder = tmp_path_factory.mktemp("sized") / "model"
        shutil.copytree(family[0], folder, ignore=shutil.ignore_patterns("*.safetensors"))
        sizes = {key: members()[name].sizes[column] for column, key in SIZES.items()}
        more = {"architectures": ["ForCausalLM"], "max_position_embeddings": 8192}
        (folder / "config.json").write_text(json.dumps(sizes | more))
        found.append(str(folder))
    return found


@pytest.fixture(scope="module")
def longest(tmp_path_factory):
    """Rows whose responses are longer than any file lets them be."""
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    row = {"prompt": "?", "response": "forty two and one " * 900}
    path.write_text("".join(json.dumps(row | {"prompt": f"{i}?"}) + "\n" for i in range(32)))
    return str(path)


def test_there_are_some():
    names = {path.name for path in FILES.glob("*.yaml")}
    assert names == {f"8b-on-{d}-{v}.yaml" for d in DEVICES for v in ("select", "finetune")}


@pytest.mark.parametrize("room", DEVICES)
def test_each_is_read_by_its_verb(room):
    where = {"data": "rows.jsonl", "out": "x"}
    select = build(
        SelectConfig, flags={**where, "keep": (0.1,)}, file=FILES / f"8b-on-{room}-select.yaml"
    )
    tune = build(FinetuneConfig, flags=where, file=FILES / f"8b-on-{room}-finetune.yaml")
    for name in ("quantize", "dtype", "batch_size", "max_length", "activation_checkpointing"):
        assert getattr(select, name) == getattr(tune, name), name
    assert select.target == tune.model
    assert members()[str(select.target)].small == select.small  # as --small auto would take
    assert "Untested on that device" in (FILES / f"8b-on-{room}-select.yaml").read_text()
    assert "Untested on that device" in (FILES / f"8b-on-{room}-finetune.yaml").read_text()


@pytest.mark.parametrize("room", DEVICES)
def test_the_plan_is_as_the_file_says_and_fits(room, models, longest):
    file = FILES / f"8b-on-{room}-select.yaml"
    flags = {"data": longest, "small": models[0], "target": models[1], "keep": (0.1,)}
    flags["device"] = DEVICES[room]
    plan = estimate(build(PlanConfig, flags=flags, file=file))
    assert plan["data"]["truncated"] == plan["data"]["rows"]  # nothing is longer than these
    assert plan["models"]["target"]["parameters"] == 8_030_261_248
    assert not [text for text in plan["warnings"] if "memory" in text]
    most = max(stage["memory"] or 0 for stage in plan["stages"])
    told = re.search(r"at most ([\d.]+) GB", file.read_text())
    assert told
    assert round(most / 1e9, len(told[1].partition(".")[2])) == float(told[1])


def test_without_four_bits_24_gb_are_too_few(models, longest):
    file = FILES / "8b-on-24gb-select.yaml"
    flags = {"data": longest, "small": models[0], "target": models[1], "keep": (0.1,)}
    for change in ({"quantize": "none"}, {"activation_checkpointing": False}):
        plan = estimate(
            build(PlanConfig, flags={**flags, **change, "device": "rtx-4090"}, file=file)
        )
        assert any("memory is too small: tune target" in text for text in plan["warnings"])
