"""Batches without padding for training on the CPU: rows end to end (`staff.models.by_row`).

A model's results on them are compared with padded rows once (`packing_of`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from staff.data.batches import PAD_ID, collate
from staff.models.by_row import NOT_TAKEN, by_row, may_go_by_row, mixes_rows, windows_of
from staff.models.narrow import token_wise_parts
from staff.training.response_loss import response_losses
from staff.types import IGNORE, TokenisedExample


@dataclass(frozen=True, slots=True)
class Packing:
    """How to pack for a model that can be given packed rows.

    narrow: parts of its last block that may work at response positions only.
    multiple, responses: what the numbers of tokens and of logits are rounded up to.
    """

    narrow: tuple[nn.Module, ...]
    multiple: int = 1
    responses: int = 1


def pack(examples: Sequence[TokenisedExample], *, multiple: int = 1) -> dict[str, Any]:
    """B samples as one of N tokens, a multiple of `multiple`: what the model is called with.

    input_ids, position_ids and labels int64 [1, N] (-100: not in the loss; so the first token of
    every sample, which nothing comes before), row_lengths: B ints, or B + 1 with the filling.
    """
    lengths = [len(example.input_ids) for example in examples]
    fill = -sum(lengths) % multiple
    ids = np.concatenate([*(example.input_ids for example in examples), np.full(fill, PAD_ID)])
    labels = np.concatenate([*(example.labels for example in examples), np.full(fill, IGNORE)])
    labels[np.cumsum([0, *lengths])[:-1]] = IGNORE
    places = np.concatenate([*map(np.arange, lengths), np.zeros(fill)])
    arrays = {"input_ids": ids, "labels": labels, "position_ids": places}
    return {
        **{name: torch.from_numpy(array.astype(np.int64))[None] for name, array in arrays.items()},
        "row_lengths": [*lengths, fill] if fill else lengths,
    }


def packing_of(model: Any) -> Packing | None:
    """How to pack for this causal LM (not wrapped by PEFT); None where it must be given padding.

    A model packs if the losses of two short rows are the same either way. `narrow` likewise.
    """
    if not may_go_by_row(model):
        return None
    half = model.dtype != torch.float32
    # Matrix kernels in half precision are made for a shape when it first comes.
    sizes = {"multiple": 64, "responses": 32} if half else {}
    padded = collate(_PROBE)
    whole = {"input_ids": padded.input_ids, "attention_mask": padded.attention_mask}
    training = model.training
    model.eval()
    try:
        if mixes_rows(model):
            return None
        wanted = _losses(model, labels=padded.labels, **whole)
        for narrow in (token_wise_parts(model), ()):
            widths: set[int | None] = set()
            with by_row(model):
                found = _losses(model, narrow=narrow, widths=widths, **pack(_PROBE))
            if not windows_of(model) <= widths:  # told by its mask alone, which there is none of
                return None
            if torch.allclose(found, wanted, rtol=1e-2 if half else 1e-4, atol=1e-6):
                return Packing(narrow, **sizes)
    except NOT_TAKEN:
        return None
    finally:
        model.train(training)
    return None


def _losses(model: Any, **inputs: Any) -> Tensor:
    with torch.no_grad():
        return response_losses(model, **inputs)[0]


def _probe(length: int, prompt: int) -> TokenisedExample:
    ids = np.arange(1, length + 1)
    return TokenisedExample("", ids, np.where(np.arange(length) < prompt, IGNORE, ids))


_PROBE = [_probe(7, 3), _probe(4, 0), _probe(6, 4)]
