"""The slow reference: effort scores by the model's own forward pass and autograd, one by one.

No hooks, no batching, no padding, no shortcuts, and no code shared with `staff.scores.effort`
except finding φ: a real weight requires a gradient, the model computes its own loss from `labels`,
and the score is the norm of autograd's gradient. Run it on your own model to check the fast path;
it is too slow for whole data sets.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from staff.errors import ConfigError, ModelError, unknown_name
from staff.models.placement import device_of
from staff.models.value_projection import find_value_projection
from staff.scores.norms import wide
from staff.types import TokenisedExample

ORACLES = ("last-value", "last-value-lora", "adapter", "lm-head")


def oracle_effort(
    model: Any, example: TokenisedExample, *, phi: str = "last-value", seed: int = 0
) -> float:
    """‖∇_φ L(θ(d))‖₂ of one sample. The model is left as it was found.

    ``last-value-lora`` really attaches the released code's LoRA (r = 81, α = 16) to the last value
    projection, drawn with `seed`; ``adapter`` needs a model that has its LoRA attached.

    Raises ConfigError for an unknown phi, ModelError where it is not found in the model or its
    weight is quantised.
    """
    if phi not in ORACLES:
        raise ConfigError(unknown_name("phi", phi, ORACLES))
    modes = {module: module.training for module in model.modules()}
    needed = [p.requires_grad for p in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        return math.sqrt(_RULES[phi](model, example, seed))
    finally:
        for parameter, value in zip(model.parameters(), needed, strict=True):
            parameter.requires_grad_(value)
        for module, mode in modes.items():
            module.training = mode


def oracle_signals(model: Any, example: TokenisedExample) -> dict[str, float]:
    """Loss, entropy, EL2N and response length of one sample, by their definitions in float64.

    Switches the model to eval mode.
    """
    model.eval()
    device = device_of(model.get_input_embeddings())
    ids = torch.tensor(example.input_ids, device=device)[None]
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].cpu().double()
    losses, entropies, errors = [], [], []
    for t in range(1, len(example.input_ids)):
        token = int(example.labels[t])
        if token < 0:
            continue
        p = torch.softmax(logits[t - 1], dim=0)
        onehot = torch.zeros_like(p)
        onehot[token] = 1.0
        losses.append(-math.log(float(p[token])))
        entropies.append(float(-(p * p.log()).sum()))
        errors.append(float((p - onehot).norm()))
    n = len(losses)
    return {
        "loss": sum(losses) / n,
        "entropy": sum(entropies) / n,
        "el2n": sum(errors) / n,
        "response_length": float(n),
    }


def _gradients(model: Any, example: TokenisedExample, parameters: Any) -> tuple[Tensor, ...]:
    """∇L of the model's own loss; whatever `.grad` holds stays as it is."""
    device = model.get_input_embeddings().weight.device
    ids = torch.tensor(example.input_ids, device=device)[None]
    labels = torch.tensor(example.labels, device=device)[None]
    for parameter in parameters:
        parameter.requires_grad_(True)
    with torch.enable_grad():
        # Some models keep what they carry on by writing over it, and others fill a cache wrongly.
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        return torch.autograd.grad(loss, parameters, materialize_grads=True)


def _squared(gradient: Tensor) -> float:
    return float(wide(gradient).square().sum())


def _last_value(model: Any, example: TokenisedExample, seed: int) -> float:
    found = find_value_projection(model)
    weight = found.module.weight
    if not weight.is_floating_point():
        raise ModelError(
            f"{found.name} is stored quantised, and the slow reference takes the gradient of its "
            "weight in full: check the model it was made from, with --quantize"
        )
    (gradient,) = _gradients(model, example, [weight])
    gradient = gradient.T if found.transposed else gradient
    return _squared(gradient if found.columns is None else gradient[found.columns])


class _WithLora(nn.Module):
    """A layer plus the released code's LoRA on its value columns: W x + (α/r) B A x, B = 0."""

    def __init__(self, layer: nn.Module, a: Tensor, columns: Tensor) -> None:
        super().__init__()
        self.layer, self.columns = layer, columns
        self.a = nn.Parameter(a, requires_grad=False)
        self.b = nn.Parameter(a.new_zeros(len(columns), len(a)))

    def __getattr__(self, name: str) -> Any:
        """Weight and bias are the layer's, for DoRA around it."""
        if name in ("weight", "bias"):
            return getattr(self.layer, name)
        return super().__getattr__(name)

    def forward(self, x: Tensor) -> Tensor:
        update = (16 / 81) * (x.to(self.a.dtype) @ self.a.T) @ self.b.T
        output = self.layer(x)
        return output.index_add(-1, self.columns, update.to(output.dtype))


def _last_value_lora(model: Any, example: TokenisedExample, seed: int) -> float:
    from staff.scores.phi import last_value_lora_a  # the draw is what both must agree on

    found = find_value_projection(model)
    columns = torch.arange(found.d_value) if found.columns is None else found.columns
    device = found.module.weight.device
    wrapped = _WithLora(
        found.module, last_value_lora_a(found.d_in, seed=seed).to(device), columns.to(device)
    )
    adapted = hasattr(model.get_submodule(found.name), "base_layer")  # its LoRA goes on around it
    with _replaced(model, found.name + ".base_layer" * adapted, wrapped):
        (gradient,) = _gradients(model, example, [wrapped.b])
    return _squared(gradient)


def _adapter(model: Any, example: TokenisedExample, seed: int) -> float:
    lora = [p for name, p in model.named_parameters() if "lora_" in name]
    return math.fsum(_squared(gradient) for gradient in _gradients(model, example, lora))


def _lm_head(model: Any, example: TokenisedExample, seed: int) -> float:
    head = model.get_output_embeddings()
    shared = head.weight
    # An adapter's wrapper shows the weight of a layer within.
    head = next(m for m in head.modules() if m._parameters.get("weight") is shared)
    # A copy of a tied weight: its gradient is that of its use as head only.
    head.weight = nn.Parameter(shared.detach().clone())
    try:
        (gradient,) = _gradients(model, example, [head.weight])
        return _squared(gradient)
    finally:
        head.weight = shared


_RULES = {
    "last-value": _last_value,
    "last-value-lora": _last_value_lora,
    "adapter": _adapter,
    "lm-head": _lm_head,
}


@contextmanager
def _replaced(model: Any, name: str, module: nn.Module) -> Iterator[None]:
    before = model.get_submodule(name)
    model.set_submodule(name, module)
    try:
        yield
    finally:
        model.set_submodule(name, before)
