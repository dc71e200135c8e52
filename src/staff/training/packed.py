"""Batches without padding: rows laid end to end, of which attention sees one at a time.

Padding is computed like any token and then thrown away: of rows of mixed length half the work. Laid
end to end, B rows are one of N tokens to every layer but attention, which is called a row at a time
and so needs no mask either. What a model makes of it is held against padded rows once (`packs`).

For the CPU: there a call a row costs nothing, on a GPU it would.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from staff.data.batches import collate
from staff.models.narrow import token_wise_parts
from staff.training.response_loss import response_losses
from staff.types import IGNORE, TokenisedExample

NAME = "staff_packed"  # of the attention, for transformers


@dataclass(frozen=True, slots=True)
class Packing:
    """How to pack for a model that can be given packed rows.

    narrow: parts of its last block that may work at response positions only.
    multiple, responses: what the numbers of tokens and of logits are rounded up to.
    """

    narrow: tuple[nn.Module, ...]
    multiple: int = 1
    responses: int = 1


def pack(examples: Sequence[TokenisedExample], *, pad_id: int, multiple: int = 1) -> dict[str, Any]:
    """B samples as one of N tokens, a multiple of `multiple`: what the model is called with.

    input_ids, position_ids and labels int64 [1, N] (-100: not in the loss; so the first token of
    every sample, which nothing comes before), row_lengths: B ints, or B + 1 with the filling.
    """
    lengths = [len(example.input_ids) for example in examples]
    fill = -sum(lengths) % multiple
    ids = np.concatenate([*(example.input_ids for example in examples), np.full(fill, pad_id)])
    labels = np.concatenate([*(example.labels for example in examples), np.full(fill, IGNORE)])
    labels[np.cumsum([0, *lengths])[:-1]] = IGNORE
    places = np.concatenate([*map(np.arange, lengths), np.zeros(fill)])
    arrays = {"input_ids": ids, "labels": labels, "position_ids": places}
    return {
        **{name: torch.from_numpy(array.astype(np.int64))[None] for name, array in arrays.items()},
        "row_lengths": [*lengths, fill] if fill else lengths,
    }


def packs(model: Any) -> Packing | None:
    """How to pack for this causal LM (not wrapped by PEFT); None where it must be given padding.

    A model packs if the losses of two short rows are the same either way. `narrow` likewise.
    """
    if not _may_pack(model):
        return None
    half = model.dtype != torch.float32
    # Matrix kernels in half precision are made for a shape when it first comes.
    sizes = {"multiple": 64, "responses": 32} if half else {}
    padded = collate(_PROBE, pad_id=0)
    whole = {"input_ids": padded.input_ids, "attention_mask": padded.attention_mask}
    training = model.training
    model.eval()
    try:
        wanted = _losses(model, labels=padded.labels, **whole)
        for narrow in (token_wise_parts(model), ()):
            widths: set[int | None] = set()
            with by_row(model):
                found = _losses(model, narrow=narrow, widths=widths, **pack(_PROBE, pad_id=0))
            if not _windows(model) <= widths:  # told by its mask alone, which there is none of
                return None
            if torch.allclose(found, wanted, rtol=1e-2 if half else 1e-4, atol=1e-6):
                return Packing(narrow, **sizes)
    except (TypeError, ValueError, RuntimeError, IndexError):  # it does not take such input
        return None
    finally:
        model.train(training)
    return None


@contextmanager
def by_row(model: Any) -> Iterator[None]:
    """Inside the block, attention of this causal LM looks at the rows of `pack` one at a time."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def row_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row_lengths: list[int],
    sliding_window: int | None = None,
    widths: set[int | None] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention of query [1, H, N, D], key and value [1, G, N, D] within rows; [1, N, H, D].

    In float32 whatever the model's precision: in bfloat16 the CPU's backward pass of attention
    takes longer, of short rows three times as long. widths: is told of the sliding window.

    Raises ValueError for a mask, which only a model that makes its own would bring.
    """
    if attention_mask is not None:
        raise ValueError(f"{type(module).__name__} has a mask of its own")
    if widths is not None:
        widths.add(sliding_window)
    rows = zip(*(s.float().split(row_lengths, dim=2) for s in (query, key, value)), strict=True)
    with torch.autocast("cpu", enabled=False):  # it would round them again
        outputs = [
            sdpa_attention_forward(module, q, k, v, _window(q, sliding_window), **kwargs)[0]
            for q, k, v in rows
        ]
    return torch.cat(outputs, dim=1).to(query.dtype), None


def _window(query: Tensor, width: int | None) -> Tensor | None:
    """Mask bool [1, 1, T, T] of a row longer than a sliding window; None of any other."""
    length = query.shape[2]
    if width is None or length <= width:
        return None
    return torch.ones(length, length, dtype=torch.bool).tril().triu(1 - width)[None, None]


def _may_pack(model: Any) -> bool:
    """Whether it is worth trying: on the CPU, by PyTorch's attention, with positions as input.

    Attention in chunks is told by its mask alone, which short rows would not show.
    """
    config = model.config.get_text_config()
    return (
        model.device.type == "cpu"
        and config._attn_implementation == "sdpa"
        and model._can_set_attn_implementation()
        and getattr(config, "attention_chunk_size", None) is None
        and "position_ids" in signature(model.forward).parameters
    )


def _windows(model: Any) -> set[int | None]:
    """The width of the sliding window that a model's attention must have; empty if it has none."""
    config = model.config.get_text_config()
    width, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    return {width} if width and (not kinds or "sliding_attention" in kinds) else set()


def _losses(model: Any, **inputs: Any) -> Tensor:
    with torch.no_grad():
        return response_losses(model, **inputs)[0]


def _probe(length: int, prompt: int) -> TokenisedExample:
    ids = np.arange(1, length + 1)
    return TokenisedExample("", ids, np.where(np.arange(length) < prompt, IGNORE, ids))


_PROBE = [_probe(7, 3), _probe(4, 0), _probe(6, 4)]

AttentionInterface.register(NAME, row_attention)
