"""LoRA on quantised weights; needs the extra `quant` (make test-quant)."""

import json

import numpy as np
import pytest

from staff.training.finetune import finetune

pytest.importorskip("bitsandbytes", reason="needs bitsandbytes and torchao: make test-quant")
pytest.importorskip("torchao", reason="needs bitsandbytes and torchao: make test-quant")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, tiny, rows):
    """The tiny model in nf4, tuned until it knows the rows by heart."""
    out = tmp_path_factory.mktemp("qlora") / "adapter"
    return finetune(
        model=str(tiny), tokens=rows, out=out, epochs=30, learning_rate=1e-2, seed=1,
        quantize="nf4", dtype="float32", device="cpu",
    )  # fmt: skip


def test_it_learns_on_four_bits(tuned):
    losses = [loss for _, loss in tuned.losses]
    assert losses[0] > 4
    assert max(losses[-4:]) < 0.5


def test_the_adapter_is_an_ordinary_one_in_float32(tuned, tiny):
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    names = {path.name for path in tuned.adapter.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "loss.jsonl"}
    config = json.loads((tuned.adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny)
    weights = load_file(tuned.adapter / "adapter_model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float32}
    assert len(weights) == 2 * 7 * 2
    # Of more digits than bfloat16 has: no rounding on the way.
    assert any((w.bfloat16().float() != w).any() for n, w in weights.items() if "lora_B" in n)
    full = AutoModelForCausalLM.from_pretrained(tiny)
    assert PeftModel.from_pretrained(full, tuned.adapter).active_adapters == ["default"]


def test_nothing_of_the_base_is_copied_into_float32(tiny, rows, tmp_path):
    import torch

    from staff.models.load import load_model

    model = load_model(str(tiny), dtype="bfloat16", device="cpu", quantize="nf4")
    finetune(model=model, tokens=rows, out=tmp_path / "a", epochs=1)
    base = {n: p.dtype for n, p in model.named_parameters() if "lora_" not in n}
    assert set(base.values()) == {torch.uint8, torch.bfloat16}
    assert base["model.embed_tokens.weight"] == torch.bfloat16


@pytest.mark.parametrize("quantize", ["nf4", "int8", "llm-int8"])
def test_the_loss_falls_with_each(tiny, rows, tmp_path, quantize):
    found = finetune(
        model=str(tiny), tokens=rows, out=tmp_path / "a", epochs=6, learning_rate=1e-2,
        quantize=quantize, dtype="float32", device="cpu",
    )  # fmt: skip
    losses = [loss for _, loss in found.losses]
    assert np.mean(losses[-3:]) < losses[0] - 1


def test_checkpointed_blocks_change_no_byte(tiny, rows, tmp_path):
    for name, again in (("kept", False), ("again", True)):
        finetune(
            model=str(tiny), tokens=rows, out=tmp_path / name, epochs=2, seed=1,
            quantize="nf4", dtype="float32", device="cpu", gradient_checkpointing=again,
        )  # fmt: skip
    files = [tmp_path / n / "adapter_model.safetensors" for n in ("kept", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_stopped_one_goes_on_to_the_same_bytes(tiny, rows, tmp_path):
    def tune(out, **how):
        return finetune(
            model=str(tiny), tokens=rows, out=tmp_path / out, epochs=2, seed=1,
            quantize="nf4", dtype="float32", device="cpu", made_from="x", checkpoint_seconds=0,
            **how,
        )  # fmt: skip

    def stop(point):
        if point.step == 3:
            raise KeyboardInterrupt

    tune("whole")
    with pytest.raises(KeyboardInterrupt):
        tune("stopped", on_log=stop)
    assert list((tmp_path / ".stopped.partial").glob("checkpoint-*"))
    tune("stopped")
    files = [tmp_path / n / "adapter_model.safetensors" for n in ("whole", "stopped")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_it_is_evaluated_on_the_weights_it_was_tuned_on(tuned, tiny, rows):
    from staff.training.evaluate import evaluate

    found = evaluate(
        model=str(tiny), tokens=rows, adapter=tuned.adapter, quantize="nf4", dtype="float32",
        device="cpu",
    )  # fmt: skip
    assert found.summary["loss"] < 0.4
    assert found.summary["exact"] > 0.5
    without = evaluate(
        model=str(tiny),
        tokens=rows,
        metrics=("loss",),
        quantize="nf4",
        dtype="float32",
        device="cpu",
    )
    assert without.summary["loss"] > 4
