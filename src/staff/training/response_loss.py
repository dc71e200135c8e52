"""The loss of response tokens, with logits computed nowhere else."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from staff.models.response_logits import gathered, output_head
from staff.types import IGNORE


def response_losses(
    model: Any, *, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of every response token, in float32 with its graph.

    A response token is one whose label is not -100 and that has a token before it.

    Args:
        model: a causal LM of transformers, or a PEFT model around one.
        input_ids, attention_mask, labels: int64 [B, T].

    Returns:
        losses float32 [N] and rows int64 [N], the row of the batch each belongs to.

    Raises:
        ModelError: the model has no output embeddings.
    """
    head = output_head(model)
    predicts = torch.zeros_like(labels, dtype=torch.bool)  # [B, T]; t predicts the token at t + 1
    predicts[:, :-1] = labels[:, 1:] != IGNORE
    targets = labels[:, 1:][predicts[:, :-1]]  # [N], row by row like the gathered positions
    with gathered(head, predicts.flatten().nonzero()[:, 0]):
        output = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    logits = output.logits[0].float()  # [N, V]
    losses = cross_entropy(logits, targets.to(logits.device), reduction="none")
    return losses, predicts.nonzero()[:, 0]
