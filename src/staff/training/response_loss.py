"""The loss of response tokens, with logits computed only there."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from staff.data.batches import Batch
from staff.models.narrow import narrowed
from staff.models.response_logits import gathered, output_head, rounded_up
from staff.types import IGNORE


def goes_unmasked(model: Any) -> bool:
    """Whether a model is given rows that are padded on the right without a mask.

    A causal model never looks at what comes after a token. Under a mask PyTorch's attention has no
    flash kernel, nor a backward pass that adds up in a fixed order. In bfloat16 on a GPU alone:
    elsewhere, and before Ampere, no flash kernel computes, and without a mask transformers has
    PyTorch share keys among heads (GQA), for which there is no other fast one.
    """
    return bool(model.device.type == "cuda" and model.dtype == torch.bfloat16)


def padded_inputs(batch: Batch, *, unmasked: bool) -> dict[str, Tensor]:
    """What a model is called with for rows that are padded on the right, and their labels."""
    inputs = {"input_ids": batch.input_ids, "labels": batch.labels}
    if not unmasked:
        return {**inputs, "attention_mask": batch.attention_mask}
    return {**inputs, "input_ids": batch.unmasked_ids()}


def response_losses(
    model: Any,
    *,
    labels: Tensor,
    narrow: Sequence[nn.Module] = (),
    multiple: int = 1,
    hooks: ExitStack | None = None,
    **inputs: Any,
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of every response token, in float32 with its graph.

    A response token is one whose label is not -100 and that has a token before it.

    Args:
        model: a causal LM of transformers, or a PEFT model around one.
        labels: int64 [B, T].
        narrow: parts of the last block that are to work where logits are computed, only.
        multiple: compute logits at a multiple of so many positions, the odd ones for nothing.
        hooks: what `narrow` needs of a block is left in place until this is closed: activation
            checkpointing computes the blocks once more in the backward pass.
        inputs: what the model takes beside: input_ids int64 [B, T], attention_mask, ….

    Returns:
        losses float32 [N] and rows int64 [N], the row of the batch each belongs to.

    Raises:
        ModelError: the model has no output embeddings.
    """
    head = output_head(model)
    predicts = torch.zeros_like(labels, dtype=torch.bool)  # [B, T]; t predicts the token at t + 1
    predicts[:, :-1] = labels[:, 1:] != IGNORE
    batch, length = labels.shape
    predicting = predicts.flatten().nonzero()[:, 0]  # [N]; the one place where a GPU is waited for
    targets = labels.flatten()[predicting + 1]
    positions = rounded_up(predicting, multiple, total=batch * length)
    with ExitStack() as own:
        own.enter_context(gathered(head, positions))
        parts = narrowed(narrow, shape=(batch, length), rows=positions)
        (own if hooks is None else hooks).enter_context(parts)
        output = model(**inputs, use_cache=False)
    logits = output.logits[0, : len(targets)].float()  # [N, V]
    losses = cross_entropy(logits, targets.to(logits.device), reduction="none")
    return losses, predicting // length
