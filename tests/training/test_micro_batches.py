"""Fewer rows at once, and activations computed twice: the same training in less memory."""

import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from staff.models.load import load_model
from staff.training.finetune import finetune
from staff.training.share import Share
from staff.types import IGNORE

ROWS = [0, 5, 8, 14, 3]  # of a batch


@pytest.fixture(scope="module")
def tuned(tiny, rows, tmp_path_factory):
    """Fine-tune the tiny model on all 16 rows, five a step; (adapter's weights, losses)."""
    folder = tmp_path_factory.mktemp("tuned")

    def tune(name, **how):
        done = finetune(
            model=str(tiny), tokens=rows, out=folder / name, epochs=2, batch_size=5,
            learning_rate=1e-2, **how,
        )  # fmt: skip
        assert done.response_tokens == 2 * rows.response_lengths.sum()
        return load_file(done.adapter / "adapter_model.safetensors"), [x for _, x in done.losses]

    return tune


@pytest.fixture(scope="module")
def whole(tuned):
    return tuned("whole")


def test_micro_batches_have_the_loss_and_gradients_of_the_whole_batch(trainer_of):
    found = {
        size: step(trainer_of(batch_size=5, micro_batch_size=size)) for size in (None, 1, 2, 5, 99)
    }
    loss, whole = found.pop(None)
    assert all(grad.abs().max() > 0 for grad in whole.values())
    for other, grads in found.values():
        assert other == pytest.approx(loss, rel=1e-6)
        for name, grad in grads.items():
            np.testing.assert_allclose(grad, whole[name], rtol=1e-4, atol=1e-6)


def step(trainer):
    """(loss, gradients by parameter) of a step on five rows, ready for the optimiser."""
    inputs = trainer._collate([{"row": row} for row in ROWS])
    loss = trainer.training_step(trainer.model, inputs)
    assert trainer.seen.sum() == 5
    return loss.item(), {n: p.grad for n, p in trainer.model.named_parameters() if p.requires_grad}


def test_micro_batches_take_their_part_of_the_batch_only(tuned, monkeypatch):
    from staff.training import trainer

    counts, original = [], trainer.response_losses

    def watch(model, **inputs):
        counts.append(len(inputs["row_lengths"]))
        return original(model, **inputs)

    monkeypatch.setattr(trainer, "response_losses", watch)
    # In half precision a row of filling follows those of a batch.
    tuned("watched", micro_batch_size=2, dtype="float32")
    assert counts == [2, 2, 1] * 3 + [1] + [2, 2, 1] * 3 + [1]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_part_has_no_more_padding_than_its_own_rows_need(trainer_of, rows, attention):
    """None where rows are packed; eager attention must be given padded ones."""
    trainer = trainer_of(batch_size=5, attention=attention, micro_batch_size=2)
    assert (trainer.packing is None) == (attention == "eager")
    parts = trainer._collate([{"row": row} for row in ROWS])["parts"]
    for part, mine in zip(parts, (ROWS[:2], ROWS[2:4], ROWS[4:]), strict=True):
        of_rows = [len(example.input_ids) for example in rows.get(mine)]
        wanted = (1, sum(of_rows)) if trainer.packing else (len(mine), max(of_rows))
        assert part["input_ids"].shape == wanted


def test_activation_checkpointing_changes_no_byte_of_the_adapter(tuned, whole):
    weights, losses = tuned("checkpointed", gradient_checkpointing=True)
    assert losses == whole[1]
    assert digest(weights) == digest(whole[0])


@pytest.mark.parametrize("micro", [None, 2])
def test_activation_checkpointing_computes_every_block_again(tiny, rows, tmp_path, micro):
    """In a model as it is loaded, ready to score."""
    calls, learns = {}, torch.is_grad_enabled
    for again in (False, True):
        model = load_model(str(tiny), dtype="float32", device="cpu")
        counted = calls[again] = [0] * len(model.model.layers)
        for number, block in enumerate(model.model.layers):
            block.mlp.register_forward_pre_hook(
                lambda m, args, to=counted, n=number: to.insert(n, to.pop(n) + learns())
            )
        finetune(
            model=model, tokens=rows, out=tmp_path / str(again), max_steps=2,
            batch_size=4, gradient_checkpointing=again, micro_batch_size=micro,
        )  # fmt: skip
    assert calls[False] == [2 * (4 // (micro or 4))] * 2
    assert calls[True] == [2 * n for n in calls[False]]


def test_the_whole_model_is_in_training_mode(tiny, rows, tmp_path):
    """Not the adapter alone: a model's own dropout is on, as in any trainer."""
    model = load_model(str(tiny), dtype="float32", device="cpu")
    seen = set()
    for module in model.modules():
        module.register_forward_hook(lambda m, *_: seen.add((m.training, torch.is_grad_enabled())))
    finetune(model=model, tokens=rows, out=tmp_path / "a", max_steps=1)
    assert {training for training, learns in seen if learns} == {True}


def digest(weights):
    return [hashlib.sha256(weights[name].numpy().tobytes()).hexdigest() for name in sorted(weights)]


def test_a_batch_is_made_up_with_rows_in_no_loss(trainer_of, rows):
    """Of processes that hold a model together each must run it equally often."""
    labels = []
    for rank in (0, 1):
        share = Share(rank, 2, lambda tensor: None)
        trainer = trainer_of(batch_size=5, micro_batch_size=2, share=share)
        batch = trainer._collate([{"row": row} for row in ROWS])
        assert batch["rows"].tolist() == ROWS
        labels.append([(part["labels"] != IGNORE).sum().item() for part in batch["parts"]])
    told = rows.response_lengths[ROWS].tolist()
    assert labels == [[told[0] + told[2], told[4]], [told[1] + told[3], 0]]
