"""Tiny random models of every family."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

FAMILIES = json.loads((Path(__file__).parents[1] / "data" / "families.json").read_text())


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Any]:
    def build(family: str, **changes: Any) -> Any:
        common = FAMILIES["common"]
        config = AutoConfig.for_model(**{**common, **FAMILIES["families"][family], **changes})
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()

    return build
