"""What several tests of selectors need: a graph by brute force."""

from collections.abc import Callable

import numpy as np
import pytest


def brute_force(features, k):
    """`connect` of a D2 test: the k nearest of the given rows, by Euclidean distance, exactly."""
    features = np.asarray(features, float)

    def connect(rows):
        here = features[rows]
        apart = np.linalg.norm(here[:, None] - here[None], axis=2)
        np.fill_diagonal(apart, np.inf)
        near = np.argsort(apart, axis=1, kind="stable")[:, : min(k, len(rows) - 1)]
        return near, np.take_along_axis(apart, near, axis=1)

    return connect


@pytest.fixture(scope="session")
def graph() -> Callable:
    """(features, k) -> `connect`."""
    return brute_force
