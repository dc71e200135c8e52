"""Which gradient the effort score is the norm of (φ; the table in docs/method.md).

Each choice names the layers to watch and turns their inputs x and output gradients g into one
squared norm per sample.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from staff.errors import ModelError
from staff.models.adapters import attach_fresh, lora_layers, lora_parameters
from staff.models.response_logits import output_head
from staff.models.value_projection import find_value_projection
from staff.rng import stream_seed
from staff.scores.norms import squared_norms
from staff.scores.signals import Response
from staff.scores.taps import Tap

RELEASED_RANK, RELEASED_ALPHA = 81, 16  # the fresh LoRA of the paper's released code

Norms = Callable[[Sequence[Tap], Sequence[Sequence[Tensor]], Response], Tensor]


@dataclass(frozen=True, slots=True)
class Phi:
    """modules: the layers to watch; squared_norms: (taps, gradients, response) -> float64 [B].

    parameters: where no layer can be watched, the parameters themselves; their gradient mixes the
    samples of a batch, so these are scored one row at a time.
    """

    modules: tuple[nn.Module, ...] = ()
    squared_norms: Norms | None = None
    parameters: tuple[nn.Parameter, ...] = ()


def last_value(model: Any, *, seed: int) -> Phi:
    """The last value projection's weight: what the released code estimates, without its noise."""
    found = find_value_projection(model)
    # Blocks may share a weight (Zamba): its gradient is that of all its uses.
    weight = found.module.weight
    uses = tuple(m for m in model.modules() if m._parameters.get("weight") is weight)

    def norms(taps: Sequence[Tap], grads: Sequence[Sequence[Tensor]], _: Response) -> Tensor:
        calls = [g for of_one in grads for g in of_one]
        _require_calls(calls, found.name)
        inputs = [x for tap in taps for x in tap.inputs]
        return squared_norms(found.take_value(_joined(calls)), _joined(inputs))

    return Phi(uses or (found.module,), norms)


def last_value_lora(model: Any, *, seed: int) -> Phi:
    """lora_B of a fresh LoRA on the last value projection, as in the released code.

    B is zero, so the model computes what it computed before, and the gradient of B is
    (α/r)·Σ_t g_t (A x_t)ᵀ: only A has to be drawn, the layer need not be attached.
    """
    found = find_value_projection(model)
    a = last_value_lora_a(found.d_in, seed=seed) * (RELEASED_ALPHA / RELEASED_RANK)

    def norms(taps: Sequence[Tap], grads: Sequence[Sequence[Tensor]], _: Response) -> Tensor:
        _require_calls(grads[0], found.name)
        x = _joined(taps[0].inputs).float()
        return squared_norms(found.take_value(_joined(grads[0])), x @ a.to(x.device).T)

    return Phi((found.module,), norms)


def last_value_lora_a(d_in: int, *, seed: int) -> Tensor:
    """A float32 [81, d_in], Kaiming-uniform with a = √5 (PEFT's own): uniform within ±1/√d_in."""
    generator = torch.Generator().manual_seed(stream_seed(seed, "last-value-lora") % 2**63)
    return (torch.rand((RELEASED_RANK, d_in), generator=generator) * 2 - 1) / d_in**0.5


def adapter(model: Any, *, seed: int) -> Phi:
    """Every LoRA parameter of the model; without one, LoRA is freshly attached with the seed."""
    if not lora_parameters(model):
        attach_fresh(model, seed=seed)
    layers = lora_layers(model)
    if not layers:
        return Phi(parameters=tuple(lora_parameters(model)))

    def norms(taps: Sequence[Tap], grads: Sequence[Sequence[Tensor]], response: Response) -> Tensor:
        total = torch.zeros(len(response.count), dtype=torch.float64)
        for tap, grad in zip(taps, grads, strict=True):
            if not grad:
                continue  # an expert that no token of the batch was routed to
            g, x = _joined(grad), _joined(tap.inputs)
            if len(response.count) == 1:  # whatever its shape, it is all of this one sample
                g, x = g.reshape(1, -1, g.shape[-1]), x.reshape(1, -1, x.shape[-1])
            if g.dim() != 3 or len(g) != len(total):
                raise PerSampleShapeLost
            found = squared_norms(g, x)
            total = total.to(found.device) + found  # on a GPU: the host need not wait for each
        return total

    return Phi(tuple(layers), norms)


def lm_head(model: Any, *, seed: int) -> Phi:
    """The output head's weight; of a tied one, its use as head only."""

    def norms(taps: Sequence[Tap], grads: Sequence[Sequence[Tensor]], r: Response) -> Tensor:
        counts, n = r.count.tolist(), len(r.target)
        g, x = grads[0][0][0, :n], taps[0].inputs[0][0, :n]  # [N, V], [N, D]
        pieces = zip(g.split(counts), x.split(counts), strict=True)
        return torch.cat([squared_norms(g[None], x[None]) for g, x in pieces])  # [n_i, V], [n_i, D]

    return Phi((output_head(model),), norms)


PHI = {
    "last-value": last_value,
    "last-value-lora": last_value_lora,
    "adapter": adapter,
    "lm-head": lm_head,
}


class PerSampleShapeLost(Exception):  # noqa: N818 - a signal to score the rows one by one
    """A layer saw the batch's tokens pooled (routed experts), so samples cannot be told apart."""


def _joined(calls: Sequence[Tensor]) -> Tensor:
    """One tensor [B, ΣT, d] of a layer's calls [B, T, d]: a shared weight's gradients add up."""
    return calls[0] if len(calls) == 1 else torch.cat(list(calls), dim=-2)


def _require_calls(calls: Sequence[Tensor], name: str) -> None:
    """Refuse a layer that the model holds and never uses."""
    if not calls:
        raise ModelError(
            f"the model never calls {name}, so it has no gradient; score with --phi lm-head or "
            "--phi adapter instead"
        )
