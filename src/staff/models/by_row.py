"""Attention on the CPU over batches without padding: each row attends to itself, without a mask.

Padding is computed like any token and then thrown away: with rows of mixed length, half the work.
Concatenated, B rows are one row of N tokens to every layer except attention, which is called once
for every run of rows of one length. On a GPU, so many calls would cost more than the padding.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from inspect import signature
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from staff.models.placement import device_of

NAME = "staff_by_row"  # of the attention, for transformers
# What a model raises that does not take such input: a mask it works with is not there (Qwen 4), …
NOT_TAKEN = (AttributeError, TypeError, ValueError, RuntimeError, IndexError)


def may_go_by_row(model: Any) -> bool:
    """Whether it is worth trying: on the CPU, by PyTorch's attention, with positions as input.

    Attention in chunks, or sparse by an index, is the usual one in rows as short as those that a
    model is tried on. Layers that carry something from token to token (Mamba, convolutions) are
    told by their kinds here, and where a config does not name them, by `mixes_rows`.
    """
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ()
    return (
        model.device.type == "cpu"
        and config._attn_implementation == "sdpa"
        and model._can_set_attn_implementation()
        and getattr(config, "attention_chunk_size", None) is None
        and {"full_attention", "sliding_attention"}.issuperset(kinds)
        and "position_ids" in signature(model.forward).parameters
    )


def windows_of(model: Any) -> set[int | None]:
    """The width of the sliding window that a model's attention must have; empty if it has none."""
    config = model.config.get_text_config()
    width, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    return {width} if width and (not kinds or "sliding_attention" in kinds) else set()


@torch.no_grad()
def mixes_rows(model: Any) -> bool:
    """Whether a row's logits depend on the row before it, which attention leaves out.

    State spaces and convolutions are not told where a row begins, and what they carry over may be
    too little to show in the scores of short rows. Here the tokens of the row before change and no
    shape does, so logits differ by rounding only where experts get other numbers of tokens.
    """
    second = torch.tensor([6, 5, 4, 3])
    logits = []
    for first in (torch.tensor([1, 2, 3, 4, 5, 6]), torch.tensor([9, 8, 2, 4, 1, 7])):
        lengths = [len(first), len(second)]
        with by_row(model):
            logits.append(logits_of_last(model, first, second, row_lengths=lengths).double())
    rounding = 1e-3 if model.dtype in (torch.bfloat16, torch.float16) else 1e-5
    return bool((logits[0] - logits[1]).abs().max() > rounding * logits[0].std())


def logits_of_last(model: Any, *rows: Tensor, **how: Any) -> Tensor:
    """Logits [T, V] of the last of these rows (int64 [T] each), laid end to end; how: also told."""
    device = device_of(model.get_input_embeddings())
    positions = torch.cat([torch.arange(len(row)) for row in rows])[None]
    return model(
        input_ids=torch.cat(rows)[None].to(device),
        position_ids=positions.to(device),
        use_cache=False,
        **how,
    ).logits[0, -len(rows[-1]) :]


def by_row(model: Any) -> AbstractContextManager[None]:
    """Inside the block, this causal LM is called with `row_lengths`, and attends within rows."""
    return attending(model, NAME)


@contextmanager
def attending(model: Any, kernel: str) -> Iterator[None]:
    """Inside the block, the model attends by the implementation of that name."""
    before = model.config._attn_implementation
    model.set_attn_implementation(kernel)
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
    row_lengths: Sequence[int],
    sliding_window: int | None = None,
    widths: set[int | None] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention of query [1, H, N, D], key and value [1, G, N, D] within rows; [1, N, H, D].

    In float32 whatever the model's precision: in bfloat16 the CPU's backward pass of attention
    takes longer, of short rows three times as long. widths: a set that the layer's
    sliding window is added to.

    Raises ValueError for a mask, which only a model that makes its own would bring.
    """
    if attention_mask is not None:
        raise ValueError(f"{type(module).__name__} has a mask of its own")
    if widths is not None:
        widths.add(sliding_window)
    runs = [(length, len(list(rows))) for length, rows in groupby(row_lengths)]
    places = [length * count for length, count in runs]
    states = zip(*(s.float().split(places, dim=2) for s in (query, key, value)), strict=True)
    outputs = []
    with torch.autocast("cpu", enabled=False):  # it would round them again
        for (length, count), run in zip(runs, states, strict=True):
            q, k, v = (_batched(s, count) for s in run)
            mask = _window(length, sliding_window)
            found, _ = sdpa_attention_forward(module, q, k, v, mask, **kwargs)  # [B, T, H, D]
            outputs.append(found.flatten(0, 1))
    return torch.cat(outputs)[None].to(query.dtype), None


def _batched(states: Tensor, rows: int) -> Tensor:
    """[B, H, T, D] of B rows of one length, end to end in [1, H, B·T, D]."""
    return states.unflatten(2, (rows, -1))[0].transpose(0, 1)


def _window(length: int, width: int | None) -> Tensor | None:
    """Mask bool [1, 1, T, T] of rows longer than a sliding window; None of any other."""
    if width is None or length <= width:
        return None
    return torch.ones(length, length, dtype=torch.bool).tril().triu(1 - width)[None, None]


AttentionInterface.register(NAME, row_attention)
