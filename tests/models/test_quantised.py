"""Weights in 4 and 8 bits; needs the extra `quant` (make test-quant)."""

import numpy as np
import pytest
import torch

from staff.data.batches import collate
from staff.errors import ConfigError, ModelError
from staff.models import quantised
from staff.models.adapters import attach_fresh
from staff.models.load import load_model
from staff.models.placement import Spread
from staff.models.quantised import dequantise_into, quantised_layers
from staff.scores.effort import Scorer
from staff.scores.oracle import oracle_effort

pytest.importorskip("bitsandbytes", reason="needs bitsandbytes and torchao: make test-quant")
pytest.importorskip("torchao", reason="needs bitsandbytes and torchao: make test-quant")

FAMILIES = ("llama", "gpt2", "phi3", "qwen3", "gemma2")


def load(path, **how):
    return load_model(path, **{"dtype": "float32", "device": "cpu", **how})


def efforts(model, rows, **options):
    """Padded on the right, padded on the left, and one row at a time."""
    scorer = Scorer(model, signals=(), **options)
    alone = [scorer(collate([row]))["effort"] for row in rows]
    batches = [scorer(collate(rows, side=s))["effort"] for s in ("right", "left")]
    return [*batches, np.concatenate(alone)]


@pytest.mark.parametrize(
    ("quantize", "family"),
    # GPT-2's layers are no linear ones to torchao.
    [("nf4", f) for f in FAMILIES] + [("int8", f) for f in FAMILIES if f != "gpt2"],
)
def test_scores_are_those_of_the_dequantised_weights(folder, rows, quantize, family):
    path = folder(family)
    model, exact = load(path, quantize=quantize), load(path)
    before = [p.detach().clone() for p in exact.parameters()]
    assert sum(1 for _ in quantised_layers(model)) >= 8
    dequantise_into(model, exact)
    moved = max(float((p - q).abs().max()) for p, q in zip(exact.parameters(), before, strict=True))
    assert moved > 1e-4  # or nothing was quantised
    truth = np.array([oracle_effort(exact, row) for row in rows])
    for found in efforts(model, rows):
        np.testing.assert_allclose(found, truth, rtol=2e-5)


@pytest.mark.parametrize("phi", ["last-value-lora", "adapter", "lm-head"])
def test_every_gradient(folder, rows, phi):
    path = folder("llama")
    model, exact = load(path, quantize="nf4"), load(path)
    dequantise_into(model, exact)
    found = efforts(model, rows, phi=phi, seed=3)
    if phi == "adapter":
        attach_fresh(exact, seed=3)
    truth = np.array([oracle_effort(exact, row, phi=phi, seed=3) for row in rows])
    for norms in found:
        np.testing.assert_allclose(norms, truth, rtol=2e-5)


def test_inputs_in_8_bits_are_near(folder, rows):
    path = folder("llama")
    model, exact = load(path, quantize="llm-int8"), load(path)
    dequantise_into(model, exact)
    truth = np.array([oracle_effort(exact, row) for row in rows])
    for norms in efforts(model, rows):
        np.testing.assert_allclose(norms, truth, rtol=0.05)


@pytest.mark.parametrize("quantize", ["nf4", "int8", "llm-int8"])
def test_embeddings_and_head_are_kept_in_full(folder, quantize):
    path = folder("llama")
    model, exact = load(path, quantize=quantize), load(path)
    for own, full in (
        (model.get_input_embeddings(), exact.get_input_embeddings()),
        (model.get_output_embeddings(), exact.get_output_embeddings()),
    ):
        torch.testing.assert_close(own.weight, full.weight, rtol=0, atol=0)
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_an_adapter_stays_beside_the_weights(folder, rows, trained_lora, tmp_path, quantize):
    path = folder("llama")
    adapter = str(tmp_path / "adapter")
    trained_lora(load(path), adapter, size=0.05)
    model = load(path, quantize=quantize, adapter=adapter)  # merge is the default
    assert sum(1 for _ in quantised_layers(model)) >= 8
    assert any("lora_B" in name for name, _ in model.named_parameters())
    exact = load(path, adapter=adapter, merge=False)
    dequantise_into(model, exact)
    truth = np.array([oracle_effort(exact.merge_and_unload(), row) for row in rows])
    plain = efforts(load(path, quantize=quantize), rows)[0]
    assert np.abs(plain / truth - 1).max() > 0.01  # the adapter counts
    for norms in efforts(model, rows):
        np.testing.assert_allclose(norms, truth, rtol=5e-5)


def test_a_model_without_linear_layers_that_it_takes(folder):
    with pytest.raises(ModelError, match="has no linear layer that --quantize int8 can quantise"):
        load(folder("gpt2"), quantize="int8")


@pytest.mark.parametrize("quantize", ["nf4", "int8", "llm-int8"])
def test_quantised_weights_cannot_lie_on_the_disk(folder, quantize):
    with pytest.raises(
        ModelError, match=f"with --quantize {quantize}, and quantised weights cannot"
    ):
        load(folder("llama"), quantize=quantize, spread=Spread(room={"cpu": 20_000}))
    load(folder("llama"), quantize=quantize, spread=Spread())


def test_a_model_that_is_stored_quantised(folder, rows, tmp_path):
    made = load(folder("llama"), quantize="nf4")
    made.save_pretrained(tmp_path / "q")
    (tmp_path / "q" / "tokenizer.json").write_text("{}")
    tuned = attach_fresh(made, seed=0)
    torch.manual_seed(1)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    tuned.save_pretrained(tmp_path / "adapter")
    wanted = efforts(tuned, rows)[0]
    with pytest.raises(ModelError, match=r"v_proj is stored quantised, and the slow reference"):
        oracle_effort(tuned, rows[0])
    assert np.abs(efforts(load(str(tmp_path / "q")), rows)[0] / wanted - 1).max() > 0.01
    for dtype in ("float32", "bfloat16"):  # a sum in 4 bits would lose the adapter
        model = load(str(tmp_path / "q"), adapter=str(tmp_path / "adapter"), dtype=dtype)
        assert any("lora_B" in name for name, _ in model.named_parameters())
        assert not any(getattr(m, "support_avx512bf16_for_cpu", False) for m in model.modules())
        rtol = 1e-5 if dtype == "float32" else 0.05
        np.testing.assert_allclose(efforts(model, rows)[0], wanted, rtol=rtol)
    with pytest.raises(
        ModelError, match=r"are stored quantised \(bitsandbytes\): leave out --quantize"
    ):
        load(str(tmp_path / "q"), quantize="nf4")


def test_the_package_is_named_where_it_is_missing(folder, monkeypatch):
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    for quantize, package in (("nf4", "bitsandbytes"), ("int8", "torchao")):
        with pytest.raises(ConfigError, match=f"--quantize {quantize} needs {package}: pip inst"):
            load(folder("llama"), quantize=quantize)


@pytest.mark.parametrize("quantize", ["nf4", "int8", "llm-int8"])
def test_a_plan_knows_their_size(tiny, tmp_path, quantize):
    """Large enough for scales not to matter; the scales of nf4 are counted."""
    from staff.planning import memory
    from staff.planning.shape import shape_of

    model = tiny("llama", hidden_size=512, intermediate_size=1024, num_key_value_heads=4)
    model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    shape = shape_of(model)
    planned = memory.weights(shape, size=4, quantize=quantize) - 4 * shape.largest
    loaded = load(str(tmp_path), quantize=quantize)
    found = 0
    for parameter in loaded.parameters():
        state, scales = getattr(parameter, "quant_state", None), getattr(parameter, "SCB", None)
        held = [parameter]
        if hasattr(parameter, "qdata"):
            held = [parameter.qdata, parameter.scale]
        elif state is not None:
            held += [state.absmax, state.state2.absmax]
        elif scales is not None:
            held.append(scales)
        found += sum(t.untyped_storage().nbytes() for t in held)
    assert found == pytest.approx(planned, rel=0.02)
