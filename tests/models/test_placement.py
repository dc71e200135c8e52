"""Models that are spread over devices: here host memory and disk, since that needs no GPU."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.version import Version

from staff.data.batches import collate
from staff.errors import ConfigError, ModelError
from staff.models.load import load_model
from staff.models.placement import Spread, device_of
from staff.runs.config import ScoreConfig
from staff.scores.effort import Scorer
from staff.stages.options import device_used, spread_of
from staff.team import Team

FAMILIES = ("llama", "phi3", "qwen3", "gemma2", "gpt2", "mixtral")
# Whether a model may lie on the disk as a whole: with older libraries that is refused.
ALL_ON_DISK = Version(version("accelerate")) >= Version("1.15") and Version(
    version("transformers")
) >= Version("5.13")

# What a spread model takes beside what a whole one does, in one process: the peak of each.
MEASURE = """
import json, sys
import numpy as np
import peft  # what both import is no part of the difference
from staff.data.batches import collate
from staff.models.load import load_model
from staff.models.placement import Spread
from staff.planning import peak
from staff.scores.effort import Scorer
from staff.types import IGNORE, TokenisedExample

generator = np.random.default_rng(0)
rows = []
for length in (9, 30, 17):
    ids = generator.integers(3, 500, length)
    labels = np.where(np.arange(length) < length // 2, IGNORE, ids)
    rows.append(TokenisedExample(str(length), ids, labels))
batch = collate(rows)

def score(spread):
    peak.reset("cpu")
    before = peak.read("cpu")
    model = load_model(sys.argv[1], dtype="float32", device="cpu", spread=spread)
    efforts = Scorer(model, signals=())(batch)["effort"]
    places = sorted({str(place) for place in getattr(model, "hf_device_map", {"": "cpu"}).values()})
    return {"effort": efforts.tolist(), "bytes": peak.read("cpu") - before, "places": places}

room = Spread(room={"cpu": int(sys.argv[2])})
print(json.dumps({"spread": score(room), "whole": score(None)}))
"""


def load(path, **how):
    return load_model(path, **{"dtype": "float32", "device": "cpu", **how})


def on_disk(model):
    """Weights that lie on the disk until they are needed."""
    return [name for name, p in model.named_parameters() if p.device.type == "meta"]


@pytest.mark.parametrize("phi", ["last-value", "lm-head"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_the_model_in_one_place(folder, rows, tmp_path, family, phi):
    path = folder(family)
    whole = load(path)
    # Half of a model with tied embeddings is less than its first layer: all of it is on the disk.
    share = 0.5 if ALL_ON_DISK else 0.75
    room = int(share * sum(p.numel() * p.element_size() for p in whole.parameters()))
    # Mixtral's experts are stored one by one and computed with together: written again.
    spread = load(path, spread=Spread(room={"cpu": room}, folder=str(tmp_path / "written")))
    assert on_disk(spread)
    batch = collate(rows)
    found, expected = (Scorer(m, phi=phi)(batch) for m in (spread, whole))
    for name, column in expected.items():
        np.testing.assert_allclose(found[name], column, rtol=1e-6, err_msg=name)
    assert on_disk(spread)  # and there they lie again


def test_an_embedding_on_the_disk_computes_on_the_cpu(folder, rows):
    path = folder("llama")
    if not ALL_ON_DISK:
        with pytest.raises(ModelError, match=r"needs accelerate 1\.15 .*: raise --max-memory"):
            load(path, spread=Spread(room={"cpu": 0}))
        return
    spread = load(path, spread=Spread(room={"cpu": 0}))
    embedding = spread.get_input_embeddings()
    assert embedding.weight.device.type == "meta"
    assert device_of(embedding) == torch.device("cpu")
    found = Scorer(spread)(collate(rows))["effort"]
    np.testing.assert_allclose(found, Scorer(load(path))(collate(rows))["effort"], rtol=1e-6)


def test_an_adapter_stays_beside_weights_on_the_disk(folder, rows, trained_lora, tmp_path):
    path = folder("llama")
    adapter = str(tmp_path / "adapter")
    trained_lora(load(path), adapter, size=0.05)
    room = 30_000 if ALL_ON_DISK else 60_000
    spread = load(path, adapter=adapter, spread=Spread(room={"cpu": room}))
    assert on_disk(spread)
    batch = collate(rows)
    found, expected = (Scorer(m)(batch)["effort"] for m in (spread, load(path, adapter=adapter)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_memory_stays_below_the_models_size(tmp_path):
    """A Llama of 300 MB under a cap of 60 MB, in a process of its own."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=512,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=7,
        num_attention_heads=16,
        num_key_value_heads=4,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    assert size > 300e6
    model.save_pretrained(tmp_path / "large", max_shard_size="100MB")
    (tmp_path / "large" / "tokenizer.json").write_text("{}")
    del model
    if not sys.platform.startswith("linux"):
        pytest.skip("peaks of memory are read as Linux tells them")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "large"), "60000000"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    spread, whole = found["spread"], found["whole"]
    np.testing.assert_allclose(spread["effort"], whole["effort"], rtol=1e-6)
    assert spread["places"] == ["cpu", "disk"]
    assert whole["bytes"] > 0.9 * size  # or the measurement would say nothing
    assert spread["bytes"] < 0.6 * size


@pytest.fixture
def asked(monkeypatch):
    """Have the libraries find as much free memory on two GPUs; the GPUs that were asked for it."""
    found = []

    def free(*places):
        found.extend(place.index if hasattr(place, "index") else place for place in places)
        return 100, 200

    def free_everywhere():
        return {i: free(i)[0] for i in (0, 1)} | {"cpu": 90}

    monkeypatch.setattr("transformers.integrations.accelerate.get_max_memory", free_everywhere)
    monkeypatch.setattr("torch.cuda.mem_get_info", free)
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda place: 30)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda place: 10)
    return found


@pytest.mark.parametrize(("device", "ranks", "place", "over"), [
    ("auto", 1, "cuda:0", {0, 1, "cpu"}),
    ("cuda", 1, "cuda:0", {0, 1, "cpu"}),
    ("cuda:0", 1, "cuda:0", {0, "cpu"}),  # the current one, but named
    ("cuda:1", 1, "cuda:1", {1, "cpu"}),
    ("auto", 2, "cuda:1", {1, "cpu"}),  # what else there is, is the other processes'
    ("cpu", 1, "cpu", {"cpu"}),
])  # fmt: skip
def test_a_gpu_that_is_named_is_the_only_one(monkeypatch, asked, device, ranks, place, over):
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    config = ScoreConfig(data="d", model="m", out="o", device=device, device_map="auto")
    told = spread_of(config).arguments(torch.device(place))
    assert set(told["max_memory"]) == over
    assert {*asked, "cpu"} == over  # asking takes memory of a GPU
    gpus = [most for name, most in told["max_memory"].items() if name != "cpu"]
    assert gpus in ([], [90, 90], [int(0.9 * (100 + 30 - 10))])
    assert told["max_memory"]["cpu"] > 0


def test_a_process_of_a_team_has_its_own_gpu_only(monkeypatch, asked):
    """While a team works torchrun's variables are put away, so it is not they that tell."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr("staff.team._here", [Team(rank=1, size=2)])
    for device in ("auto", "cuda"):
        config = ScoreConfig(data="d", model="m", out="o", device=device, device_map="auto")
        told = spread_of(config).arguments(torch.device("cuda:1"))
        assert set(told["max_memory"]) == {1, "cpu"}
    assert set(asked) == {1}
    config = ScoreConfig(data="d", model="m", out="o", device="cuda:0")
    with pytest.raises(ConfigError, match="--device cuda:0 would be the GPU of all processes of a"):
        device_used(config)


def test_models_that_are_in_use_at_once_do_not_overwrite_each_others_weights(monkeypatch):
    """Of one process (`--verify-against untuned` in rounds), or of two."""
    options = {"device_map": "auto", "offload_folder": "x"}
    config = ScoreConfig(data="d", model="m", out="o", **options)
    found = {spread_of(config, *loaded).folder for loaded in (["m"], ["n"], ["m", "adapter"])}
    for rank in (1, 2):
        monkeypatch.setattr("staff.team._here", [Team(rank=rank, size=3)])
        found.add(spread_of(config, "m").folder)
    assert len(found) == 5
    assert {str(Path(folder).parent) for folder in found} == {"x"}
    assert spread_of(config, "m").folder in found  # at the next start, the same


def test_workers_of_ray_do_not_overwrite_each_others_weights(monkeypatch):
    """They share a machine, and know of no team; one that reads while another writes reads zeros."""
    options = {"device_map": "auto", "offload_folder": "x", "executor": "ray"}
    config, found = ScoreConfig(data="d", model="m", out="o", **options), []
    for gpu, number in (("0", 7), ("1", 8), ("0", 9), ("", 7), ("", 8)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpu)
        monkeypatch.setattr("os.getpid", lambda number=number: number)
        found.append(spread_of(config, "m").folder)
    assert found[2] == found[0]  # a worker that came after it on the same GPU
    assert len(set(found)) == 4


@pytest.mark.usefixtures("asked")
def test_weights_leave_room_on_a_gpu_that_is_not_named():
    told = Spread(room={1: 99}).arguments(torch.device("cuda:0"))
    assert told["max_memory"] == {0: 90, 1: 99, "cpu": 90}
