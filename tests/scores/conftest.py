"""Tiny random models of every family, and a few rows for them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from staff.types import IGNORE, TokenisedExample

FAMILIES = json.loads((Path(__file__).parents[1] / "data" / "families.json").read_text())


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Any]:
    def build(family: str, **changes: Any) -> Any:
        common = FAMILIES["common"]
        config = AutoConfig.for_model(**{**common, **FAMILIES["families"][family], **changes})
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()

    return build


@pytest.fixture(scope="session")
def rows() -> list[TokenisedExample]:
    """Eight rows of 6-23 tokens, the response a random tail of each."""
    generator = np.random.default_rng(0)
    found = []
    for i in range(8):
        length = int(generator.integers(6, 24))
        ids = generator.integers(3, 101, length)
        labels = ids.copy()
        labels[: length - int(generator.integers(1, length - 1))] = IGNORE
        found.append(TokenisedExample(f"row-{i}", ids, labels))
    return found
