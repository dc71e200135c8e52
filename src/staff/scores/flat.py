"""Batches without padding: their rows end to end in a single sequence.

The convention of transformers' DataCollatorWithFlattening: `position_ids` restart with every row,
and there is no attention mask. Attention then keeps the rows apart: flash attention by their
lengths, other kernels by a mask; on the CPU it is called row by row (`staff.models.by_row`). Where
samples must be separated, the model's output is laid out as a padded batch again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from staff.data.batches import Batch
from staff.models.by_row import logits_of_last
from staff.models.placement import device_of
from staff.models.response_logits import rounded_up
from staff.scores.phi import PerSampleShapeLost
from staff.scores.taps import Tap

ROUNDING = 5e-2  # of half precision, in standard deviations of the logits; float32: 1e-3


@dataclass(frozen=True, slots=True)
class Laying:
    """How rows are laid end to end.

    by_row: attention is told their lengths. tokens, responses: what the numbers of tokens and of
    logits are rounded up to: matrix kernels in half precision are made, and kept, for every shape
    that comes (oneDNN on the CPU). widths: a set that every layer's sliding window is
    added to. flash: flash attention is told where rows end; else each layer finds it by the
    positions, and waits for the GPU to do so.
    """

    by_row: bool = False
    tokens: int = 1
    responses: int = 1
    widths: set[int | None] | None = None
    flash: bool = False


class Flat:
    """A batch of B rows padded to T, and the N of its B·T places that hold a real token.

    Behind them lies a row of filling, where N is rounded up.
    """

    def __init__(self, batch: Batch, device: torch.device, laying: Laying) -> None:
        mask = batch.attention_mask.bool()
        self.laying = laying
        self.real = mask.flatten().nonzero()[:, 0].to(device)  # [N], ascending
        self.lengths = mask.sum(dim=1).tolist()
        fill = -len(self.real) % laying.tokens
        if fill:
            self.lengths.append(fill)
        self.shape = (1, len(self.real) + fill)
        self.batch, self.length = mask.shape
        self.ids = _filled(batch.input_ids[mask], fill).to(device)
        self.positions = _filled((mask.cumsum(dim=1) - 1)[mask], fill).to(device)

    def inputs(self) -> dict[str, Any]:
        """What the model is given: input_ids and position_ids int64 [1, N], row lengths.

        Of flash attention, what transformers calls `FlashAttentionKwargs`.
        """
        inputs: dict[str, Any] = {
            "input_ids": self.ids,
            "position_ids": self.positions,
            "use_cache": False,
        }
        if self.laying.flash:
            ends = torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32)
            ends = ends.to(self.ids.device)
            for side in ("q", "k"):
                inputs |= {f"cu_seq_lens_{side}": ends, f"max_length_{side}": max(self.lengths)}
        if self.laying.by_row:
            inputs["row_lengths"] = self.lengths
        if self.laying.widths is not None:
            inputs["widths"] = self.laying.widths
        return inputs

    def places(self, padded: Tensor) -> Tensor:
        """Where in the sequence the tokens are that have the places `padded` of B·T."""
        return torch.searchsorted(self.real, padded)

    def rounded(self, places: Tensor) -> Tensor:
        """Places of responses, then as many others as round their number up."""
        return rounded_up(places, self.laying.responses, total=self.shape[1])

    def padded(self, values: Tensor) -> Tensor:
        """[B, T, d] of values [1, N, d], zeros where there is no token."""
        if values.dim() != 3 or values.shape[:2] != self.shape:
            raise PerSampleShapeLost
        spread = values.new_zeros(self.batch * self.length, values.shape[2])
        spread.index_copy_(0, self.real.to(values.device), values[0, : len(self.real)])
        return spread.view(self.batch, self.length, -1)

    def apart(
        self, taps: Sequence[Tap], grads: Sequence[Sequence[Tensor]]
    ) -> tuple[list[Tap], list[list[Tensor]]]:
        """Inputs of layers and gradients at their outputs, a sample a row."""
        return (
            [Tap(inputs=[self.padded(x) for x in tap.inputs]) for tap in taps],
            [[self.padded(g) for g in found] for found in grads],
        )


def _filled(values: Tensor, fill: int) -> Tensor:
    """[1, N + fill] of values [N], zeros behind them."""
    return pad(values, (0, fill))[None]


def takes_flash_lengths(model: Any) -> bool:
    """Whether a model attends by flash attention, and hands on what it is told for that."""
    kernel = str(model.config.get_text_config()._attn_implementation)
    kinds = (parameter.kind for parameter in signature(model.forward).parameters.values())
    return kernel.startswith("flash_attention") and Parameter.VAR_KEYWORD in kinds


@torch.no_grad()
def keeps_rows_apart(model: Any) -> bool:
    """Whether a row in one sequence with others is to the model what it is on its own.

    Some models let them see each other; some take positions from the mask that is not there. Held
    on the second of two rows: its logits must not change with the first, nor by being alone.
    Attention in chunks counts places in the sequence, which rows this short would not show.
    """
    if getattr(model.config.get_text_config(), "attention_chunk_size", None) is not None:
        return False
    if not _outgrows_masks(model):
        return False
    first, second = torch.tensor([1, 2, 3, 4, 5, 6]), torch.tensor([6, 5, 4, 3])

    def logits(*rows: Tensor) -> Tensor:
        found = logits_of_last(model, *rows)
        return found if found.dtype == torch.float64 else found.float()

    alone, beside = logits(second), logits(first, second)
    other = logits(first.flip(0)[1:], second)
    half = model.dtype in (torch.bfloat16, torch.float16)
    scale = float(alone.std())
    mixed = float((beside - other).abs().max()), float((beside - alone).abs().max())
    return max(mixed) <= (ROUNDING if half else 1e-3) * scale


def _outgrows_masks(model: Any) -> bool:
    """Whether a sequence may be longer than the causal masks that a model keeps, if it does.

    Those of GPT-Neo end with its context; GPT-2 has kept some that it did not use.
    """
    sizes = [kept.shape[2] for kept in model.buffers() if kept.dim() == 4 and kept.shape[2] > 1]
    if not sizes:
        return True
    device = device_of(model.get_input_embeddings())
    ids = torch.ones(1, max(sizes) + 1, dtype=torch.int64, device=device)
    try:
        model(input_ids=ids, position_ids=torch.zeros_like(ids), use_cache=False)
    except RuntimeError:
        return False
    return True
