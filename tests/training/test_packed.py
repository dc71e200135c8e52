"""Rows laid end to end train as padded rows do."""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from packaging.version import Version

from staff.types import IGNORE, TokenisedExample

DESCRIBED = json.loads((Path(__file__).parents[1] / "data" / "families.json").read_text())
# Their attention is their own, or caps its logits (Gemma 2): they are given padding.
PADDED = {"bloom", "falcon-rw", "falcon-7b", "falcon-40b", "gemma2"} | {
    family
    for family, least in DESCRIBED["lengths_reach_attention_since"].items()
    if Version(version("transformers")) < Version(least)
}


def build(family, **changes):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {**DESCRIBED["common"], **DESCRIBED["families"][family], **changes}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings)).eval()


def build_of(kind, **settings):
    """A tiny model of a kind that is not among the described families."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {**DESCRIBED["common"], "num_key_value_heads": 2, **settings}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)).eval()


@pytest.fixture(scope="module")
def mixed():
    """Rows of 3 to 23 tokens, longer than Mistral's window here; the first is all response."""
    generator = np.random.default_rng(0)
    found = []
    for prompt, length in ((0, 9), (1, 23), (15, 17), (2, 3), (11, 20)):
        ids = generator.integers(3, 101, length)
        found.append(TokenisedExample("", ids, np.where(np.arange(length) < prompt, IGNORE, ids)))
    return found


def losses_and_gradients(model, **inputs):
    from staff.training.response_loss import response_losses

    model.zero_grad()
    losses, _ = response_losses(model, **inputs)
    losses.mean().backward()
    named = model.named_parameters()
    return losses.detach(), {n: p.grad.clone() for n, p in named if p.grad is not None}


@pytest.mark.parametrize("family", sorted(DESCRIBED["families"]))
def test_packed_rows_have_the_losses_and_gradients_of_padded_ones(family, mixed):
    import torch

    from staff.data.batches import collate
    from staff.models.by_row import by_row
    from staff.training.packed import pack, packing_of

    model = build(family)
    before = model.config._attn_implementation
    packing = packing_of(model)
    assert model.config._attn_implementation == before
    assert (packing is None) == (family in PADDED)
    if packing is None:
        return
    batch = collate(mixed)
    padded = {n: getattr(batch, n) for n in ("input_ids", "labels", "attention_mask")}
    wanted, gradients = losses_and_gradients(model, **padded)
    for multiple in (1, 16):  # 72 tokens and 45 in the loss: 16 fills both up
        inputs = pack(mixed, multiple=multiple)
        with by_row(model):
            losses, found = losses_and_gradients(
                model, narrow=packing.narrow, multiple=multiple, **inputs
            )
        torch.testing.assert_close(losses, wanted, rtol=1e-5, atol=1e-6)
        assert found.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_what_is_packed(mixed):
    from staff.training.packed import pack

    packed = pack(mixed[:2], multiple=20)
    assert packed["row_lengths"] == [9, 23, 8]
    ids = np.concatenate([mixed[0].input_ids, mixed[1].input_ids, [0] * 8])
    assert packed["input_ids"].tolist() == [ids.tolist()]
    assert packed["position_ids"].tolist() == [[*range(9), *range(23), *[0] * 8]]
    labels = packed["labels"][0].tolist()
    assert labels[0] == labels[9] == IGNORE  # nothing comes before a row's first token
    assert labels[1:9] == mixed[0].labels[1:].tolist()
    assert labels[32:] == [IGNORE] * 8


def test_bfloat16_rows_are_attended_to_in_float32():
    """Under autocast, too, which the trainer works in."""
    import torch
    from torch import nn
    from torch.nn.functional import scaled_dot_product_attention as attention

    from staff.models.by_row import row_attention

    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 11, 8).bfloat16() for _ in range(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = row_attention(nn.Module(), query, key, value, None, row_lengths=[4, 7])
    cut = [
        [x.float()[:, :, part] for x in (query, key, value)] for part in (slice(4), slice(4, 11))
    ]
    wanted = torch.cat([attention(*part, is_causal=True) for part in cut], dim=2).transpose(1, 2)
    assert torch.equal(found, wanted.bfloat16())


def test_models_that_cannot_be_packed():
    from staff.training.packed import packing_of

    assert packing_of(build("llama")).multiple == 1
    assert packing_of(build("llama").bfloat16()).multiple == 64
    assert packing_of(build("llama", attn_implementation="eager")) is None
    # A window that its layers' masks alone know of, wider than the rows that are tried.
    windowed = build_of("qwen2_moe", use_sliding_window=True, sliding_window=8)
    assert set(windowed.config.layer_types) == {"full_attention", "sliding_attention"}
    assert packing_of(windowed) is None
    assert packing_of(build_of("qwen2_moe")) is not None
    # A convolution reaches into the row before; of small weights its losses tell too little of it.
    kinds = ["conv", "full_attention"]
    assert packing_of(build_of("lfm2", layer_types=kinds, initializer_range=0.02)) is None
    chunked = build("llama")
    chunked.config.attention_chunk_size = 4
    assert packing_of(chunked) is None


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_tried_without_dropout_and_left_as_it_was(training):
    from staff.training.packed import packing_of

    model = build("llama", attention_dropout=0.5).train(training)
    packing = packing_of(model)
    assert packing.narrow == (model.model.layers[-1].mlp,)
    assert {module.training for module in model.modules()} == {training}


def test_losses_tell_what_cannot_be_packed_or_narrowed():
    import torch

    from staff.training.packed import packing_of

    class ByPlace(torch.nn.Linear):  # which is another one behind other rows
        def forward(self, x):
            return super().forward(x) * torch.arange(1, x.shape[1] + 1)[:, None]

    class Whole(torch.nn.Linear):  # the rows that are tried have 7 tokens at most, together 17
        def forward(self, x):
            return super().forward(x) * (1 if x.shape[1] in (7, 17) else 2)

    class Refusing(torch.nn.Linear):  # a batch of one row
        def forward(self, x):
            if len(x) == 1:
                raise IndexError
            return super().forward(x)

    for part, narrow in ((ByPlace, None), (Whole, ()), (Refusing, None)):
        model = build("llama")
        model.model.layers[-1].mlp = part(32, 32)
        packing = packing_of(model)
        assert (None if packing is None else packing.narrow) == narrow
