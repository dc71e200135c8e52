"""Offline, quiet and deterministic: set before any library reads its environment."""

import os
from pathlib import Path

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
