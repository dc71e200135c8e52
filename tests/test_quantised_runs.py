"""Whole commands on quantised weights; needs the extra `quant` (make test-quant)."""

import json

import pytest

from staff.cli.main import main
from staff.errors import RunError
from staff.pipeline import select
from staff.reports.text import models_block
from staff.runs.config import SelectConfig
from staff.runs.manifest import read_manifest

pytest.importorskip("bitsandbytes", reason="needs bitsandbytes and torchao: make test-quant")
pytest.importorskip("torchao", reason="needs bitsandbytes and torchao: make test-quant")

COLUMNS = {"prompt_column": "mr", "response_column": "ref"}
FLAGS = [
    "--prompt-column",
    "mr",
    "--response-column",
    "ref",
    "--device",
    "cpu",
    "--dtype",
    "float32",
    "--quiet",
]


@pytest.fixture(scope="module")
def data(e2e_file):
    return str(e2e_file(24))


@pytest.fixture
def settings(data, family, tmp_path):
    return {
        "data": data, "small": family[0], "target": family[1], "keep": (0.5,), "regions": 3,
        "verify_per_region": 4, "epochs": 1, "dtype": "float32", "device": "cpu",
        "out": str(tmp_path / "x"), **COLUMNS,
    }  # fmt: skip


def reused(manifest):
    return {stage["name"]: bool(stage.get("reused")) for stage in manifest["stages"]}


def test_a_selection_in_four_bits(settings, tmp_path):
    made = select(SelectConfig(**settings, quantize="nf4"))
    assert {m["quantize"] for m in made["models"].values()} == {"nf4"}
    assert all(", linear layers in nf4" in line for line in models_block(made)[:2])
    assert read_manifest(tmp_path / "x")["config"]["quantize"] == "nf4"
    weights = tmp_path / "x" / "adapter" / "adapter_model.safetensors"
    before = weights.read_bytes()
    again = reused(select(SelectConfig(**{**settings, "keep": (0.25,)}, quantize="nf4")))
    assert again["fine-tune small"]
    assert again["score small"]
    assert again["verify on target"]
    with pytest.raises(RunError, match="quantize"):
        select(SelectConfig(**settings, quantize="int8"))
    assert weights.read_bytes() == before


def test_the_small_model_in_full_and_the_target_in_four_bits(settings, tmp_path):
    cache = str(tmp_path / "cache")
    select(SelectConfig(**settings, cache=cache))
    other = {**settings, "out": str(tmp_path / "y"), "cache": cache}
    made = select(SelectConfig(**other, quantize="nf4", small_quantize="none"))
    # What is made of the small model is the same work; what is made of the target is not.
    assert reused(made)["fine-tune small"]
    assert reused(made)["score small"]
    assert not reused(made)["verify on target"]
    assert [m.get("quantize") for m in made["models"].values()] == [None, "nf4"]


def test_tune_evaluate_and_score_on_the_command_line(data, family, tmp_path, capsys):
    tuned, four = str(tmp_path / "tuned"), ["--quantize", "nf4"]
    command = ["finetune", data, "--model", family[1], "--out", tuned, "--max-steps", "2"]
    assert main([*command, *four, *FLAGS]) == 0
    command = ["evaluate", data, "--model", family[1], "--adapter", tuned, "--metrics", "loss"]
    assert main([*command, *four, *FLAGS]) == 0
    out = str(tmp_path / "scored")
    command = ["score", data, "--model", family[1], "--adapter", tuned, "--out", out]
    assert main([*command, *four, *FLAGS]) == 0
    manifest = json.loads((tmp_path / "scored" / "manifest.json").read_text())
    assert manifest["models"]["model"]["quantize"] == "nf4"


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_check_model_holds_them_against_dequantised_weights(data, family, capsys, quantize):
    command = ["check-model", family[0], "--data", data, "--rows", "6", "--quantize", quantize]
    flags = [flag for flag in FLAGS if flag not in ("--dtype", "float32")]  # it checks float32
    assert main([*command, *flags]) == 0
    out = capsys.readouterr().out
    assert f"weights in {quantize}" in out
    assert "not quantised" in out
    assert "the norms in float32 agree (relative tolerance 0.001)" in out


def test_check_model_of_layers_that_are_kept_the_other_way_round(data, family, tmp_path, capsys):
    """GPT-2's Conv1D, with LoRA around it before its weights are dequantised."""
    import shutil

    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = tmp_path / "gpt2"
    shutil.copytree(family[0], model, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    config = GPT2Config(
        vocab_size=4096, n_embd=64, n_layer=2, n_head=4, n_positions=256, initializer_range=0.2
    )
    GPT2LMHeadModel(config).save_pretrained(model)
    command = ["check-model", str(model), "--data", data, "--rows", "4", "--phi", "adapter"]
    flags = [flag for flag in FLAGS if flag not in ("--dtype", "float32")]
    assert main([*command, "--quantize", "nf4", *flags]) == 0
    assert "the norms in float32 agree (relative tolerance 0.001)" in capsys.readouterr().out


def test_a_comparison_tunes_and_evaluates_in_four_bits(data, family, tmp_path):
    command = ["compare", data, "--test", data, "--small", family[0], "--target", family[1]]
    command += ["--methods", "random", "--keep", "0.5", "--seeds", "1", "--metrics", "loss"]
    command += ["--epochs", "1", "--quantize", "nf4", "--out", str(tmp_path / "c")]
    assert main([*command, *FLAGS]) == 0
    compared = json.loads((tmp_path / "c" / "compare.json").read_text())
    assert compared["models"]["target"]["quantize"] == "nf4"
