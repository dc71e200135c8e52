"""Which columns of a fused output are the values: measured, not looked up.

Attention is linear in the values. Where they are zero, it adds nothing, whatever queries and
keys are: their columns have no gradient, and those of the values have one. This identifies the
layout in any family, old or new, also where a token does not attend to itself with probability 1
(attention sinks, linear attention).
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from staff.models.placement import device_of

CLEAR = 30.0  # value columns must outweigh the others by this factor (seen: 1e4 and more)
PROBES = 8  # one-token sequences


def layouts(
    *, d_fused: int, heads: int, head_dim: int, value_dim: int | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, value columns int64 [d_value]) of the ways values are fused with others.

    ``latent``: per head a key without its position, then its value, of another size (multi-head
    latent attention: DeepSeek).
    ``blocks``: all queries, all keys, all values (Phi-3, GPT-2, multi-query Falcon).
    ``groups``: per key/value head its queries, then its key, then its value (Bloom, GPT-NeoX,
    grouped-query Falcon).
    ``quarters``: of each quarter of the heads the queries, the values, the keys (CodeGen).
    """
    if value_dim and d_fused % heads == 0 and value_dim < d_fused // heads:
        columns = torch.arange(d_fused).view(heads, -1)
        yield "latent", columns[:, -value_dim:].reshape(-1)
    if d_fused % head_dim:
        return
    kv_heads, odd = divmod(d_fused // head_dim - heads, 2)
    if odd or kv_heads < 1:
        return
    columns = torch.arange(d_fused)
    yield "blocks", columns[-kv_heads * head_dim :]
    if heads % kv_heads == 0 and kv_heads > 1:
        yield "groups", columns.view(kv_heads, -1, head_dim)[:, -1].reshape(-1)
    if heads == kv_heads and heads % 4 == 0:
        yield "quarters", columns.view(4, 3, -1)[:, 1].reshape(-1)


def column_weights(model: Any, module: Any, *, zero: Tensor) -> Tensor:
    """Mean absolute gradient [d_fused] of each output column of `module` on one-token inputs.

    zero: columns int64 that are zero meanwhile.
    """
    leaves: list[Tensor] = []

    def cut(_module: nn.Module, _args: tuple, output: Tensor) -> Tensor:
        leaf = output.detach().clone()
        leaf[..., zero.to(leaf.device)] = 0
        leaves.append(leaf.requires_grad_())
        return leaf.clone()

    generator = torch.Generator().manual_seed(0)
    device = device_of(model.get_input_embeddings())
    vocabulary = model.get_input_embeddings().weight.shape[0]
    tokens = torch.randint(vocabulary, (PROBES, 1), generator=generator).to(device)
    handle = module.register_forward_hook(cut)
    try:
        with torch.enable_grad():
            logits = model(
                input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False
            ).logits
            direction = torch.randn(logits.shape, generator=generator).to(logits)
            (gradient,) = torch.autograd.grad(logits, leaves, grad_outputs=direction)
    finally:
        handle.remove()
    return gradient.float().abs().flatten(0, -2).mean(dim=0).cpu()


def find_value_columns(
    model: Any, module: nn.Module, *, d_fused: int, **sizes: Any
) -> Tensor | None:
    """Value columns int64 [d_value] of a fused projection, or None when no layout fits clearly.

    sizes: those of heads, of `layouts`.
    """
    best, best_contrast = None, CLEAR
    for _, columns in layouts(d_fused=d_fused, **sizes):
        weights = column_weights(model, module, zero=columns)
        rest = torch.ones(d_fused, dtype=torch.bool)
        rest[columns] = False
        contrast = float(weights[columns].mean() / weights[rest].mean().clamp_min(1e-30))
        if contrast > best_contrast:
            best, best_contrast = columns, contrast
    return best
