"""What an export takes of its run's settings: bits of the weights, and the rows of a step."""

from collections.abc import Mapping
from typing import Any, Literal

from staff.exports import snippets

# Bits in which a run keeps the weights of linear layers, by the names of --quantize.
BITS: dict[str, Literal[4, 8]] = {"nf4": 4, "int8": 8, "llm-int8": 8}


def bits_of(manifest: Mapping[str, Any]) -> Literal[4, 8] | None:
    """Bits in which the run kept its target's weights; None: in full."""
    target = manifest.get("models", {}).get("target") or {}
    return BITS.get(target.get("quantize") or manifest["config"].get("quantize") or "")


def step_of(manifest: Mapping[str, Any]) -> tuple[int, int]:
    """(rows that are computed at once, how many times before a step), whose product is the step's.

    The run's batch, in equal parts of no more than its micro-batch.
    """
    config = manifest["config"]
    batch = config.get("batch_size") or snippets.BATCH * snippets.ACCUMULATE
    most = min(config.get("micro_batch_size") or snippets.BATCH, batch)
    rows = next(rows for rows in range(most, 0, -1) if batch % rows == 0)
    return rows, batch // rows
