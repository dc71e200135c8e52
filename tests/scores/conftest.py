"""A few rows for tiny random models."""

import numpy as np
import pytest

from staff.types import IGNORE, TokenisedExample


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
