"""Scoring on GPUs that are pretended (pretended.py): nothing is left on another device."""

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from pretended import gpus, put, waits_of

from staff.data.batches import collate
from staff.models.adapters import attach_fresh, lora_parameters
from staff.scores.check import hold_against_oracle
from staff.scores.effort import Scorer
from staff.training.evaluate import item_losses, token_losses
from staff.training.generate import generate_greedily
from staff.training.response_loss import response_losses

PHIS = ("last-value", "last-value-lora", "lm-head", "adapter")
PARTS = [f"model.{name}" for name in ("embed_tokens", "layers.0", "layers.1", "norm", "rotary_emb")]
PARTS.append("lm_head")
# How two GPUs, or one and the host, share a model of two blocks with tied embeddings.
SHARED = {
    "two GPUs": {"model.layers.1": "cuda:1", "model.norm": "cuda:1", "model.rotary_emb": "cuda:1"},
    "the last block on the host": {"model.layers.1": "cpu"},
    "the first block on the host": {"model.layers.0": "cpu"},
}


class Rows:
    def __init__(self, rows):
        self.rows, self.lengths = rows, np.array([len(row.input_ids) for row in rows])
        self.response_lengths = np.array([(row.labels[1:] >= 0).sum() for row in rows])

    def get(self, wanted):
        return [self.rows[int(row)] for row in wanted]


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, column in wanted.items():
        np.testing.assert_allclose(found[name], column, rtol=1e-5, atol=1e-6, err_msg=name)


def test_what_a_gpu_refuses_is_refused():
    with gpus() as waits:
        here, first, second = (torch.arange(3).to(d) for d in ("cpu", "cuda:0", "cuda:1"))
        for mixed in (lambda: first + here, lambda: first * second, lambda: here[first]):
            with pytest.raises(RuntimeError, match="on different devices"):
                mixed()
        with pytest.raises(TypeError, match="to numpy"):
            np.asarray(first)
        assert not waits
        assert (first[here] + torch.ones((), dtype=torch.int64)).cpu().tolist() == [1, 2, 3]
        assert waits == {"to the host": 1}


@pytest.mark.parametrize(
    ("family", "phi", "side"),
    [*(("llama", phi, "right") for phi in PHIS), ("llama", "last-value", "left"),
     *((family, "last-value", "right") for family in ("gemma2", "gemma3", "qwen3", "phi3"))],
)  # fmt: skip
def test_scores_on_a_gpu(tiny, rows, family, phi, side):
    batch = collate(rows, side=side)
    wanted = Scorer(tiny(family), phi=phi, features=True, padding_free=False)(batch)
    for free in (None, True):
        model = tiny(family)
        with gpus():
            put(model, lambda name: "cuda:0")
            scorer = Scorer(model, phi=phi, features=True, padding_free=free)
            assert (scorer.laying is None) is (free is None)  # rows are laid by row on a CPU only
            same(scorer(batch), wanted)


@pytest.mark.parametrize("phi", PHIS)
def test_the_host_waits_no_oftener_for_a_deeper_model(tiny, rows, phi):
    batch = collate(rows)
    counted = [waits_of(tiny("llama", num_hidden_layers=n), batch, phi=phi) for n in (1, 3)]
    assert counted[0] == counted[1]


@pytest.mark.parametrize("phi", ["last-value", "lm-head"])
@pytest.mark.parametrize("sharing", SHARED)
def test_scores_of_a_model_that_is_spread(tiny, rows, sharing, phi):
    batch = collate(rows)
    wanted = Scorer(tiny("llama-tied"), phi=phi, features=True, padding_free=False)(batch)
    places = dict.fromkeys(PARTS, "cuda:0") | SHARED[sharing]

    def where(name):
        return next((p for n, p in places.items() if f"{name}.".startswith(f"{n}.")), "cuda:0")

    model = tiny("llama-tied")
    with gpus():
        put(model, where)
        dispatch_model(model, places, main_device="cuda:0")
        for free in (None, True):
            same(Scorer(model, phi=phi, features=True, padding_free=free)(batch), wanted)


def test_a_check_on_a_gpu(tiny, rows):
    model = tiny("phi3")
    with gpus():
        put(model, lambda name: "cuda:0")
        found = hold_against_oracle(model, rows[:3], phi="last-value-lora")
    assert {"8 rows, --padding-free", "attention eager"} <= found.norms.keys()
    for norms in found.norms.values():
        np.testing.assert_allclose(norms, found.truth, rtol=1e-5)


def test_an_evaluation_on_a_gpu(tiny, rows):
    def measured(model):
        losses = item_losses(model=model, tokens=Rows(rows), batch_tokens=64)
        new = generate_greedily(
            model=model, prompts=[row.input_ids[:4] for row in rows], max_new_tokens=4,
            eos_ids=[2], batch_tokens=64,
        )  # fmt: skip
        return losses, new

    wanted, expected = measured(tiny("llama"))
    model = tiny("llama")
    with gpus():
        put(model, lambda name: "cuda:0")
        losses, new = measured(model)
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)
    assert new == expected


def test_no_mask_in_bfloat16_on_a_gpu(tiny, rows):
    wanted = token_losses(tiny("llama").bfloat16(), rows, None)
    model, asked = tiny("llama").bfloat16(), []
    model.register_forward_pre_hook(lambda _, args, how: asked.append(how), with_kwargs=True)
    with gpus():
        put(model, lambda name: "cuda:0")
        found = token_losses(model, rows, None).cpu()
    assert [sorted(how) for how in asked] == [["input_ids", "use_cache"]]
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("again", [False, True])
def test_gradients_of_a_fine_tuning_on_a_gpu(tiny, rows, again):
    """Activation checkpointing computes the blocks again in the backward pass."""
    batch = collate(rows)
    inputs = {k: getattr(batch, k) for k in ("input_ids", "labels", "attention_mask")}

    def gradients(model, inputs):
        model.train()
        if again:
            model.get_base_model().gradient_checkpointing_enable()
            model.enable_input_require_grads()
        losses, _ = response_losses(model, **inputs)
        losses.sum().backward()
        return [p.grad for p in lora_parameters(model) if p.grad.any()]

    wanted = gradients(attach_fresh(tiny("llama"), seed=0), inputs)
    model = attach_fresh(tiny("llama"), seed=0)
    with gpus():
        put(model, lambda name: "cuda:0")
        found = gradients(model, {k: v.to("cuda:0") for k, v in inputs.items()})
        assert {gradient.device for gradient in found} == {torch.device("cuda:0")}
        found = [gradient.cpu() for gradient in found]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert len(wanted) == 14  # lora_B of seven layers in two blocks; A's are zero while B is
