"""Rotary positions whose frequencies depend on the longest row of a batch."""

from collections.abc import Mapping
from typing import Any


def longest_alike(model: Any) -> int | None:
    """The length in tokens above which a row is encoded in another way; None: all are alike.

    transformers takes the frequencies of a whole batch by its longest row, so in the batch of a
    long one a short row would get other scores than by itself: Phi-3 and Phi-4 with 128k tokens
    ("longrope"; Ding et al. 2024, LongRoPE).
    """
    config = model.config.get_text_config()
    given = getattr(config, "rope_parameters", None) or {}
    kinds = [given, *(kind for kind in given.values() if isinstance(kind, Mapping))]
    found = [
        int(kind["original_max_position_embeddings"])
        for kind in kinds
        if kind.get("rope_type") == "longrope"
    ]
    return min(found, default=None)
