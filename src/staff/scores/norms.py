"""Norms of per-sample weight gradients that are never materialised.

The gradient of a linear layer's weight for one sample is G = Σ_t g_t x_tᵀ, with x the layer's input
and g the loss's gradient at its output. Its norm is computed from g and x by either side of
‖Σ_t g_t x_tᵀ‖² = Σ_{t,t'} (g_t·g_t')(x_t·x_t'); the cheaper one is used.
"""

import torch
from torch import Tensor

MAX_NUMBERS = 2**26  # float32 numbers held at once for the products of several samples: 256 MB


def wide(values: Tensor) -> Tensor:
    """As float64, or float32 on Apple's GPUs, which have no float64."""
    return values.float() if values.device.type == "mps" else values.double()


def gram_is_cheaper(*, length: int, d_in: int, d_out: int) -> bool:
    """Compare T²(d_in + d_out) with T·d_in·d_out multiplications."""
    return length * (d_in + d_out) < d_in * d_out


@torch.no_grad()
def squared_norms(g: Tensor, x: Tensor) -> Tensor:
    """‖Σ_t g_t x_tᵀ‖² float64 [B] of g [B, T, d_out] and x [B, T, d_in], any float dtype.

    Products are taken in float32 (float64 stays float64), the final sums in float64.

    >>> g, x = torch.ones(2, 3, 4), torch.ones(2, 3, 5)
    >>> squared_norms(g, x).tolist()  # 4·5 entries of 3 each
    [180.0, 180.0]
    """
    batch, length, d_out = g.shape
    d_in = x.shape[2]
    gram = gram_is_cheaper(length=length, d_in=d_in, d_out=d_out)
    held = 2 * length**2 if gram else d_in * d_out
    step = max(1, MAX_NUMBERS // max(1, held))
    parts = [
        _squared_norms(g[i : i + step], x[i : i + step], gram=gram) for i in range(0, batch, step)
    ]
    return torch.cat(parts) if parts else g.new_zeros(0, dtype=torch.float64)


def _squared_norms(g: Tensor, x: Tensor, *, gram: bool) -> Tensor:
    dtype = torch.promote_types(g.dtype, torch.float32)
    g, x = g.to(dtype), x.to(g.device, dtype)  # a head with tied weights may lie elsewhere
    # [b, T, T] or [b, d_out, d_in]
    products = (g @ g.mT).mul_(x @ x.mT) if gram else (g.mT @ x).square_()
    if products.device.type == "mps":  # which has no float64
        total = products.sum(dim=(1, 2)).cpu().double()
    else:
        total = products.sum(dim=(1, 2), dtype=torch.float64)
    # A Gram sum that is zero but for rounding may come out just below it.
    return total.clamp_min_(0.0)
