"""Loss, token entropy and EL2N of every sample, from the logits at its response positions.

Labels are shifted: the logits at position t predict the token at t + 1. Each signal is the mean
over a sample's N response tokens; the first token of a sequence is never predicted.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from staff.types import IGNORE, Floats

SIGNALS = ("loss", "entropy", "el2n", "response_length")
CHUNK = 2**17  # logits handled at once on a CPU: few enough for its cache


@dataclass(frozen=True, slots=True)
class Response:
    """The N response positions of a batch [B, T], in row order.

    sample: int64 [N], which row of the batch. position: int64 [N], where the token is predicted
    (one before it). target: int64 [N], the token. count: int64 [B], response tokens a row.
    """

    sample: Tensor
    position: Tensor
    target: Tensor
    count: Tensor

    def mean(self, values: Tensor) -> Floats:
        """Mean float64 [B] over each row's tokens of `values` [N]."""
        total = torch.zeros(len(self.count), dtype=torch.float64)  # on the CPU: MPS has no float64
        total.index_add_(0, self.sample.cpu(), values.cpu().double())
        return (total / self.count.cpu()).numpy()


def find_response(labels: Tensor) -> Response:
    """Response positions of labels [B, T] (-100: not in the loss)."""
    sample, position = (labels[:, 1:] != IGNORE).nonzero(as_tuple=True)
    return Response(
        sample=sample,
        position=position,
        target=labels[sample, position + 1],
        count=torch.bincount(sample, minlength=len(labels)),
    )


@torch.no_grad()
def token_signals(
    logits: Tensor, target: Tensor, *, signals: tuple[str, ...] = SIGNALS, gradient: bool = False
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Signals float32 [N] of each token from its logits [N, V], and ∂loss/∂logits [N, V] if asked.

    The gradient is softmax minus one-hot in the dtype of the logits; it and EL2N (its norm: Paul et
    al., NeurIPS 2021) come from the softmax that the loss needs anyway. All sums are float32.
    """
    n, vocabulary = logits.shape
    columns = {name: logits.new_empty(n, dtype=torch.float32) for name in signals}
    columns.pop("response_length", None)
    slope = torch.empty_like(logits) if gradient else None
    step = max(1, CHUNK * (1 if logits.device.type == "cpu" else 256) // vocabulary)
    for start in range(0, n, step):
        part = slice(start, min(start + step, n))
        shifted = logits[part].to(torch.float32, copy=True)  # [c, V]
        here = target[part, None]
        shifted -= shifted.amax(dim=1, keepdim=True)
        error = shifted.exp()
        total = error.sum(dim=1, keepdim=True)
        if "loss" in columns:
            columns["loss"][part] = (total.log() - shifted.gather(1, here)).squeeze(1)
        if "entropy" in columns:  # H = log Σ exp z − Σ p z
            mean = shifted.mul_(error).sum(dim=1, keepdim=True) / total
            columns["entropy"][part] = (total.log() - mean).squeeze(1)
        error /= total  # p
        error.scatter_add_(1, here, -torch.ones_like(total))  # p − onehot
        if "el2n" in columns:
            columns["el2n"][part] = torch.linalg.vector_norm(error, dim=1)
        if slope is not None:
            slope[part] = error
    return columns, slope


def collect(
    response: Response, tokens: dict[str, Tensor], signals: tuple[str, ...]
) -> dict[str, Floats]:
    """Signals float64 [B] of each sample from those of its tokens [N]."""
    columns: dict[str, Floats] = {name: response.mean(values) for name, values in tokens.items()}
    if "response_length" in signals:
        columns["response_length"] = response.count.cpu().numpy().astype(np.float64)
    return columns
