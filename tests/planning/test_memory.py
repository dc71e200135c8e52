"""What the memory model says, held against what autograd really keeps."""

import dataclasses

import numpy as np
import pytest

from staff.data.batches import collate
from staff.models.adapters import attach_fresh
from staff.planning import memory
from staff.planning.shape import shape_of
from staff.planning.shares import micro_work
from staff.planning.work import work_of
from staff.training.response_loss import response_losses

PAIRS = 8 * 4 * 25  # bytes that eager attention of `by_hand` keeps: 4 heads, pairs of 5 tokens


@pytest.mark.parametrize("family", ["llama", "gpt-neox", "gemma2", "qwen3", "phi3"])
def test_activations_are_near_what_autograd_keeps(tiny, store, kept_for_backward, family):
    tokens = store([(48, 8)] * 8)
    work, batch = work_of([np.arange(8)], tokens), collate(tokens.get(range(8)))
    model = tiny(family)
    shape = shape_of(model)
    weights = 4 * shape.parameters + memory.ADAM * shape.adapter(8)
    estimate = memory.finetune(shape, work, size=4) - weights
    tuned = attach_fresh(model, seed=0)
    names = ("input_ids", "attention_mask", "labels")
    inputs = {name: getattr(batch, name) for name in names}
    found = kept_for_backward(tuned, lambda: response_losses(tuned, **inputs))
    assert estimate == pytest.approx(found, rel=0.5), found


@pytest.mark.parametrize(
    ("family", "changes", "length"),
    [
        ("mixtral", {"num_local_experts": 16}, 16),  # most of it the experts with LoRA added
        ("gemma2", {"attn_implementation": "eager"}, 64),  # half of it of pairs of tokens
    ],
)
def test_what_some_families_keep_beside(tiny, store, kept_for_backward, family, changes, length):
    tokens = store([(length, 8)] * 4)
    work, batch = work_of([np.arange(4)], tokens), collate(tokens.get(range(4)))
    model = tiny(family, **changes)
    shape = shape_of(model)
    weights = 4 * shape.parameters + memory.ADAM * shape.adapter(8)
    gradient = 4 * shape.lora.stacked / shape.blocks
    estimate = memory.finetune(shape, work, size=4) - weights - gradient
    tuned = attach_fresh(model, seed=0)
    names = ("input_ids", "attention_mask", "labels")
    inputs = {name: getattr(batch, name) for name in names}
    found = kept_for_backward(tuned, lambda: response_losses(tuned, **inputs))
    assert estimate == pytest.approx(found, rel=0.3), found


def test_scoring_by_hand(by_hand, store):
    shape, work = shape_of(by_hand), work_of([np.arange(1)], store([(5, 4)]))
    # 1704 weights; a block's 128 ends and 2 heads at 5 tokens; 32 logits at 4 tokens; the value's
    # gradient 8·4, fewer numbers than 2·5² of Gram matrices, which 5 tokens are too many for
    kept = 4 * 1704 + 1.1 * 4 * 128 * 5 + 8 * 2 * 25 + 2 * 4 * 32 * 4 + 4 * 32
    assert memory.score(shape, work, size=4, phi="last-value", cpu=True) == round(kept)
    assert memory.score(shape, work, size=4, phi="last-value") == round(kept + 8 * 32 * 4)
    # of the head's 8·32 Gram matrices of 4 tokens
    capped = dataclasses.replace(shape, capped=True)  # by a tanh, whose results are kept
    more = [f(capped) - f(shape) for f in (
        lambda s: memory.score(s, work, size=4, phi="last-value"),
        lambda s: memory.finetune(s, work, size=4),
    )]  # fmt: skip
    assert more == [4 * 32 * 4] * 2
    head = memory.score(shape, work, size=4, phi="lm-head", cpu=True)
    assert head == round(kept - 4 * 32 + 4 * 32)


def test_weights_optimiser_and_logits_by_hand(by_hand, store):
    shape, work = shape_of(by_hand), work_of([np.arange(1)], store([(5, 4)]))
    # 1704 weights; 2048 of the adapter; 256 ends at 5 tokens; 32 logits at 4 tokens
    kept = 1.1 * 4 * 256 * 5 + PAIRS + 12 * 32 * 4
    assert memory.finetune(shape, work, size=4) == round(4 * 1704 + 16 * 2048 + kept)
    half = 1.4 * 2 * 256 * 5 + PAIRS + 12 * 32 * 4
    assert memory.finetune(shape, work, size=2) == round(2 * 1704 + 16 * 2048 + half)


def test_only_the_largest_batch_counts(by_hand, store):
    shape, tokens = shape_of(by_hand), store([(5, 2), (20, 2), (5, 2)])
    alone = work_of([np.array([1])], tokens)
    among = work_of([np.array([0]), np.array([1]), np.array([2])], tokens)
    for phi in ("last-value", "adapter"):
        sizes = [memory.score(shape, work, size=4, phi=phi) for work in (alone, among)]
        assert sizes[0] == sizes[1]
    assert memory.finetune(shape, alone, size=4) > memory.score(
        shape, alone, size=4, phi="last-value"
    )


def test_memory_grows_with_everything(by_hand, store):
    shape = shape_of(by_hand)
    small, long = (
        work_of([np.arange(2)], store([(5, 2)] * 2)),
        work_of([np.arange(2)], store([(50, 2)] * 2, "long.arrow")),
    )
    assert memory.finetune(shape, small, size=4) < memory.finetune(shape, long, size=4)
    assert memory.finetune(shape, small, size=4, rank=8) < memory.finetune(
        shape, small, size=4, rank=64
    )
    assert memory.score(shape, small, size=2, phi="last-value") < memory.score(
        shape, small, size=4, phi="last-value"
    )


def test_quantised_weights_by_hand(by_hand, store):
    shape, work = shape_of(by_hand), work_of([np.arange(1)], store([(5, 4)]))
    # 1704 weights, of them 1152 in the blocks' linear layers, 128 in the largest of these
    assert memory.weights(shape, size=2) == 2 * 1704
    assert memory.weights(shape, size=2, quantize="int8") == 1152 + 2 * (1704 - 1152 + 128)
    four = (1 / 2 + 1 / 64 + 4 / (64 * 256)) * 1152  # 16 levels; scales of scales
    assert memory.weights(shape, size=2, quantize="nf4") == four + 2 * (1704 - 1152 + 128)
    plain, less = (
        memory.score(shape, work, size=2, phi="last-value", quantize=q) for q in ("none", "nf4")
    )
    assert plain - less == pytest.approx(2 * (1152 - 128) - four, abs=1)
    # What torchao dequantises is kept until the backward pass, what bitsandbytes does is not.
    kept = [memory.finetune(shape, work, size=2, quantize=q) for q in ("int8", "llm-int8")]
    assert kept[0] - kept[1] == 2 * 1152


def test_checkpointed_blocks_by_hand(by_hand, store):
    shape, work = shape_of(by_hand), work_of([np.arange(1)], store([(5, 4)]))
    # inputs of two blocks of width 8 and the activations of one, at 5 tokens; the rest as before
    kept = 4 * 8 * 2 * 5 + 1.1 * 4 * 128 * 5 + PAIRS / 2 + 12 * 32 * 4
    found = memory.finetune(shape, work, size=4, checkpointing=True)
    assert found == round(4 * 1704 + 16 * 2048 + kept)


def test_a_micro_batch_keeps_what_the_estimate_says(tiny, store, kept_for_backward):
    tokens = store([(48, 8)] * 8)
    work, part = work_of([np.arange(8)], tokens), collate(tokens.get(range(2)))
    model = tiny("llama")
    shape = shape_of(model)
    whole, parts = (memory.finetune(shape, w, size=4) for w in (work, micro_work(work, tokens, 2)))
    weights = 4 * shape.parameters + memory.ADAM * shape.adapter(8)
    assert (parts - weights) == pytest.approx((whole - weights) / 4, abs=1)
    tuned = attach_fresh(model, seed=0)
    names = ("input_ids", "attention_mask", "labels")
    inputs = {name: getattr(part, name) for name in names}
    found = kept_for_backward(tuned, lambda: response_losses(tuned, **inputs))
    assert parts - weights == pytest.approx(found, rel=0.5), found


def test_divided_weights_by_hand(by_hand, store):
    shape, work = shape_of(by_hand), work_of([np.arange(1)], store([(5, 4)]))
    # Half of 1704; embedding, head and last norm, 2·256 + 8; and both of the two blocks, 1184
    assert memory.divided(shape, size=4, processes=2) == 4 * (852 + 520 + 1184)
    kept = 1.1 * 4 * 256 * 5 + PAIRS + 12 * 32 * 4
    found = memory.finetune(shape, work, size=4, processes=2)
    assert found == round(4 * (852 + 520 + 1184) + 16 * 2048 + kept)  # the adapter is whole


def test_what_is_outside_the_blocks_stays_put_together_until_the_end(tiny):
    import torch
    import torch.distributed as dist
    from torch.distributed.tensor import DTensor

    from staff.training.sharding import shard

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = tiny("llama").requires_grad_(False)
        shape = shape_of(model)
        tuned = attach_fresh(shard(model, torch.device("cpu")), seed=0)

        def whole():
            kept = [p for p in model.parameters() if not p.requires_grad]
            return sum(p.numel() for p in kept if not isinstance(p, DTensor))

        assert whole() == 0
        found = tuned(input_ids=torch.arange(1, 9)[None]).logits.sum()
        assert whole() == shape.parameters - shape.in_blocks > 0
        found.backward()
        assert whole() == 0
    finally:
        dist.destroy_process_group()


def test_deeper_models_hold_two_blocks_at_a_time(tiny):
    shape = shape_of(tiny("llama", num_hidden_layers=8))
    outside = shape.parameters - shape.in_blocks
    found = memory.divided(shape, size=2, processes=4)
    assert found == 2 * (shape.parameters / 4 + outside + shape.in_blocks / 4)


def test_a_spread_model_takes_its_room_and_no_more(by_hand, store):
    shape, work = shape_of(by_hand), work_of([np.arange(1)], store([(5, 4)]))
    whole, part, ample = (
        memory.score(shape, work, size=4, phi="last-value", room=room)
        for room in (None, 1000, 9999)
    )
    assert (whole - part, whole - ample) == (4 * 1704 - 1000, 0)
