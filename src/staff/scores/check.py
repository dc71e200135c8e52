"""Compare the fast path with the slow reference on a user's model and rows (`check-model`)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from staff.data.batches import collate
from staff.errors import ModelError
from staff.models.adapters import attach_fresh, lora_parameters
from staff.models.device import caps_attention
from staff.scores.effort import Scorer
from staff.scores.oracle import oracle_effort
from staff.types import Floats, TokenisedExample, read_only

BATCH = 8
KERNELS = ("sdpa", "eager")
Side = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Checked:
    """Norms float64 [n] of the same rows, found in several ways, and how fast the two paths were.

    truth: by the oracle, one row at a time. norms: by the fast path, by how it was asked. kernel:
    the attention both used; left_out: kernels that the model does not offer, or --padding-free.
    Seconds are for all rows once.
    """

    truth: Floats
    norms: dict[str, Floats]
    kernel: str
    left_out: tuple[str, ...]
    oracle_seconds: float
    fast_seconds: float


def hold_against_oracle(
    model: Any,
    examples: Sequence[TokenisedExample],
    *,
    phi: str = "last-value",
    seed: int = 0,
    exact: Any = None,
    note: Callable[[int], None] = lambda rows: None,
) -> Checked:
    """Score rows with the oracle and with the fast path: alone, padded, end to end, by kernels.

    model: in eval mode; frozen, and with phi ``adapter`` adapted, by this (see `Scorer`).
    exact: where the weights of `model` are quantised, the same with the dequantised ones, which
        the oracle takes its gradients of.
    note: is told how many rows more the oracle has done.
    """
    scorer = Scorer(model, phi=phi, signals=(), seed=seed)
    fast_path(scorer, examples[:BATCH])  # first calls allocate and choose kernels
    norms = {"one row at a time": fast_path(scorer, examples, size=1)}
    start = time.monotonic()
    found = fast_path(scorer, examples)
    fast_seconds = time.monotonic() - start
    left_out = []
    if scorer.laying is not None:
        norms[f"{BATCH} rows, end to end"] = found
        scorer = Scorer(model, phi=phi, signals=(), seed=seed, padding_free=False)
        found = fast_path(scorer, examples)
    norms[f"{BATCH} rows, padded on the right"] = found
    norms[f"{BATCH} rows, padded on the left"] = fast_path(scorer, examples, side="left")
    try:
        flat = Scorer(model, phi=phi, signals=(), seed=seed, padding_free=True)
    except ModelError:  # it mixes such rows
        left_out.append("--padding-free")
    else:
        norms[f"{BATCH} rows, --padding-free"] = fast_path(flat, examples)
    kernel = str(model.config._attn_implementation)
    for other in KERNELS:
        if other != kernel and _switch(model, other):
            norms[f"attention {other}"] = fast_path(scorer, examples)
            _switch(model, kernel)
        elif other != kernel:
            left_out.append(other)
    if exact is None:
        exact = model
    elif phi == "adapter" and not lora_parameters(exact):
        attach_fresh(exact, seed=seed)
    oracle_effort(exact, examples[0], phi=phi, seed=seed)
    start = time.monotonic()
    truth = []
    for example in examples:
        truth.append(oracle_effort(exact, example, phi=phi, seed=seed))
        note(1)
    return Checked(
        truth=read_only(np.array(truth)),
        norms={name: read_only(found) for name, found in norms.items()},
        kernel=kernel,
        left_out=tuple(left_out),
        oracle_seconds=time.monotonic() - start,
        fast_seconds=fast_seconds,
    )


def fast_path(
    scorer: Scorer,
    examples: Sequence[TokenisedExample],
    *,
    size: int = BATCH,
    side: Side = "right",
) -> Floats:
    """Effort float64 [n] in batches of `size` rows, in the order given."""
    parts = [
        scorer(collate(examples[i : i + size], side=side))["effort"]
        for i in range(0, len(examples), size)
    ]
    return np.concatenate(parts)


def _switch(model: Any, kernel: str) -> bool:
    """Let the model attend by another implementation; whether it does now."""
    if kernel == "sdpa" and caps_attention(model.config):
        return False
    try:
        model.set_attn_implementation(kernel)
    except (AttributeError, ImportError, ValueError):  # not one of this model's
        return False
    return bool(model.config._attn_implementation == kernel)
