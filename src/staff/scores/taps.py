"""Hooks that watch linear layers during one forward pass and cut the autograd graph above them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(slots=True)
class Tap:
    """Inputs and outputs of one layer, one entry per call (a shared layer is called repeatedly)."""

    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)


@contextmanager
def tapped(modules: Sequence[nn.Module]) -> Iterator[list[Tap]]:
    """Record each module's input and output inside the block.

    No parameter requires a gradient, so nothing is kept for a backward pass until the first tapped
    output, which becomes a leaf of the graph: a backward pass from the logits ends there.
    """
    taps = [Tap() for _ in modules]

    def watch(tap: Tap) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            tap.inputs.append(_by_token(args[0].detach()))
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            tap.outputs.append(output)
            # Some models clamp these activations in place, which a leaf does not allow.
            return output.clone() if output.is_leaf else output

        return hook

    handles = [m.register_forward_hook(watch(t)) for m, t in zip(modules, taps, strict=True)]
    try:
        yield taps
    finally:
        for handle in handles:
            handle.remove()


def gradients(logits: Tensor, slope: Tensor, taps: Sequence[Tap]) -> list[list[Tensor]]:
    """∂(Σ_i L_i)/∂output for every tapped call, from one backward pass; no weight gradients.

    slope: ∂(Σ_i L_i)/∂logits, of the logits' shape.
    """
    outputs = [output for tap in taps for output in tap.outputs]
    if not outputs:  # nothing that is watched was ever called
        return [[] for _ in taps]
    flat = iter(torch.autograd.grad(logits, outputs, grad_outputs=slope, allow_unused=True))
    found = []
    for tap in taps:
        pairs = [(next(flat), output) for output in tap.outputs]
        found.append([_by_token(torch.zeros_like(o) if g is None else g) for g, o in pairs])
    return found


def _by_token(values: Tensor) -> Tensor:
    """[B, T, d] of a layer that sees [B, 1, T, d], as DeepSeek's keys and values before heads."""
    return values.squeeze(1) if values.dim() == 4 and values.shape[1] == 1 else values
