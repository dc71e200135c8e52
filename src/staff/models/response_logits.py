"""Let a causal LM compute logits at response positions only.

With a large vocabulary, the output head is most of the work in a small model's forward pass, and
prompt positions do not need it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from staff.errors import ModelError


def output_head(model: Any) -> nn.Module:
    """The layer that turns hidden states into logits; ModelError when there is none."""
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(f"{type(model).__name__} has no output head; a causal LM is needed")
    return head


def take_rows(states: Tensor, rows: Tensor) -> Tensor:
    """Hidden states [1, N, D] of the tokens `rows` int64 [N] of [B, T, D]."""
    return states.flatten(0, 1).index_select(0, rows.to(states.device))[None]


def rounded_up(places: Tensor, multiple: int, *, total: int) -> Tensor:
    """Places int64 [N] of `total`, then as many others as make their number a multiple."""
    lacking = -len(places) % multiple
    if not lacking:
        return places
    others = torch.ones(total, dtype=torch.bool, device=places.device)
    others[places] = False
    return torch.cat([places, others.nonzero()[:lacking, 0]])


@contextmanager
def gathered(head: nn.Module, rows: Tensor) -> Iterator[list[Tensor]]:
    """Let the output head see only the tokens `rows` int64 [N]: hidden [B, T, D] → [1, N, D].

    Whatever the family does to its logits afterwards (soft-capping, scaling) still applies. Yields
    a list that will hold the final hidden states [B, T, D].
    """
    states: list[Tensor] = []

    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states.append(args[0].detach())
        return (take_rows(args[0], rows), *args[1:])

    handle = head.register_forward_pre_hook(hook, prepend=True)
    try:
        yield states
    finally:
        handle.remove()
