"""Batches without padding: their rows one behind the other in a single sequence.

The convention of transformers' DataCollatorWithFlattening: `position_ids` begin anew with every
row, and there is no attention mask. Attention then keeps the rows apart, flash attention by their
lengths, other kernels by a mask. What the model computes is laid out as a padded batch again where
samples must be told apart.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from staff.data.batches import Batch
from staff.models.placement import device_of
from staff.scores.phi import PerSampleShapeLost
from staff.scores.taps import Tap

ROUNDING = 5e-2  # of half precision, in standard deviations of the logits; float32: 1e-3


class Flat:
    """A batch of B rows padded to T, and the N of its B·T places that hold a real token."""

    def __init__(self, batch: Batch, device: torch.device) -> None:
        mask = batch.attention_mask.bool()
        self.real = mask.flatten().nonzero()[:, 0].to(device)  # [N], ascending
        self.shape = (1, len(self.real))
        self.batch, self.length = mask.shape
        self.ids = batch.input_ids[mask][None].to(device)
        self.positions = (mask.cumsum(dim=1) - 1)[mask][None].to(device)

    def inputs(self) -> dict[str, Any]:
        """What the model is given: input_ids and position_ids int64 [1, N]."""
        return {"input_ids": self.ids, "position_ids": self.positions, "use_cache": False}

    def places(self, padded: Tensor) -> Tensor:
        """Where in the sequence the tokens are that have the places `padded` of B·T."""
        return torch.searchsorted(self.real, padded)

    def padded(self, values: Tensor) -> Tensor:
        """[B, T, d] of values [1, N, d], zeros where there is no token."""
        if values.dim() != 3 or values.shape[:2] != self.shape:
            raise PerSampleShapeLost
        spread = values.new_zeros(self.batch * self.length, values.shape[2])
        spread.index_copy_(0, self.real.to(values.device), values[0])
        return spread.view(self.batch, self.length, -1)

    def apart(
        self, taps: Sequence[Tap], grads: Sequence[Sequence[Tensor]]
    ) -> tuple[list[Tap], list[list[Tensor]]]:
        """Inputs of layers and gradients at their outputs, a sample a row."""
        return (
            [Tap(inputs=[self.padded(x) for x in tap.inputs]) for tap in taps],
            [[self.padded(g) for g in found] for found in grads],
        )


@torch.no_grad()
def keeps_rows_apart(model: Any) -> bool:
    """Whether a row in one sequence with others is to the model what it is on its own.

    Some models let them see each other; some take positions from the mask that is not there. Held
    on the second of two rows: its logits must not change with the first, nor by being alone.
    Attention in chunks counts places in the sequence, which rows this short would not show.
    """
    if getattr(model.config.get_text_config(), "attention_chunk_size", None) is not None:
        return False
    device = device_of(model.get_input_embeddings())
    first, second = torch.tensor([1, 2, 3, 4, 5, 6]), torch.tensor([6, 5, 4, 3])

    def logits(*rows: Tensor) -> Tensor:  # [len(second), V]
        positions = torch.cat([torch.arange(len(row)) for row in rows])[None]
        found = model(
            input_ids=torch.cat(rows)[None].to(device),
            position_ids=positions.to(device),
            use_cache=False,
        ).logits[0, -len(second) :]
        return found if found.dtype == torch.float64 else found.float()

    alone, beside = logits(second), logits(first, second)
    other = logits(first.flip(0)[1:], second)
    half = model.dtype in (torch.bfloat16, torch.float16)
    scale = float(alone.std())
    mixed = float((beside - other).abs().max()), float((beside - alone).abs().max())
    return max(mixed) <= (ROUNDING if half else 1e-3) * scale
