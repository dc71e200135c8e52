"""Offline, quiet and deterministic: set before any library reads its environment."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of data and weights that may not be shipped; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the unshipped data folder beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def family() -> tuple[str, str]:
    """The embedded pretrained models: small and target."""
    folder = Path(__file__).resolve().parents[1] / "src" / "staff" / "assets" / "family"
    return str(folder / "small"), str(folder / "target")


@pytest.fixture(scope="session")
def e2e_rows() -> list[str]:
    """Lines of the embedded E2E NLG training file."""
    folder = Path(__file__).resolve().parents[1] / "src" / "staff" / "assets" / "e2e_nlg"
    return (folder / "train.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Any]:
    """Makes a tiny random model of a family of tests/data/families.json."""
    file = Path(__file__).parent / "data" / "families.json"
    described = json.loads(file.read_text(encoding="utf-8"))

    def build(family: str, **changes: Any) -> Any:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        settings = {**described["common"], **described["families"][family], **changes}
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings)).eval()

    return build
