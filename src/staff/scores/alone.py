"""The loss of a response without its prompt: the second loss that IFD needs (Li et al., 2024)."""

from typing import Any

import torch

from staff.data.batches import Batch
from staff.errors import ModelError
from staff.types import IGNORE, Floats

COLUMN = "unconditioned_loss"


class ResponseAlone:
    """Scores batches by the loss of their response tokens after a start token only.

    scorer: a `staff.scores.effort.Scorer` for the signal "loss" alone. start: the tokenizer's
    first or last special token, after which any text may begin. The responses of a
    conversation follow each other.
    """

    columns = (COLUMN,)

    def __init__(self, scorer: Any, *, start: int) -> None:
        self.scorer, self.start = scorer, start

    def __call__(self, batch: Batch) -> dict[str, Floats]:
        """One float64 array [B]."""
        return {COLUMN: self.scorer(without_prompts(batch, self.start))["loss"]}


def without_prompts(batch: Batch, start: int) -> Batch:
    """The same rows with `start` for all that is not in the loss, padded on the right."""
    rows = [ids[mask] for ids, mask in zip(batch.input_ids, batch.labels != IGNORE, strict=True)]
    width = 1 + max(len(row) for row in rows)
    ids = torch.full((len(rows), width), start)
    labels, mask = torch.full_like(ids, IGNORE), torch.zeros_like(ids)
    for n, row in enumerate(rows):
        ids[n, 1 : len(row) + 1] = labels[n, 1 : len(row) + 1] = row
        mask[n, : len(row) + 1] = 1
    return Batch(rows=batch.rows, input_ids=ids, labels=labels, attention_mask=mask)


def start_token(tokenizer: Any, *, model: str) -> int:
    """The token after which a text begins: bos, or else eos; ModelError if there is neither."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise ModelError(f"the tokenizer of {model} has no bos or eos token: ifd needs one")
