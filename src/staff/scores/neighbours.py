"""Neighbours (for D2 Pruning) and clusters of rows in feature space, by faiss.

faiss is imported only where it is used.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from staff.rng import stream_seed
from staff.types import Ints

EXACT_ROWS = 100_000  # above this, exact search costs more than the rest of a selection
HNSW_LINKS = 32  # per row and layer: faiss's usual choice
HNSW_DEPTH = 128  # candidates kept while building and searching
CLUSTER_ROUNDS = 25  # of k-means: faiss's default
BLOCK = 4096  # rows searched at a time


def nearest(
    features: NDArray[np.float32], k: int, *, exact_rows: int = EXACT_ROWS
) -> tuple[Ints, NDArray[np.float32]]:
    """The k nearest other rows of every row, by Euclidean distance of unit vectors.

    features: [n, D]; scaled to length 1 here, so that distances lie in [0, 2] whatever the
    model's scale (D2's messages decay with exp(-distance)). Up to `exact_rows` rows the
    search is exact, above that approximate (HNSW, Malkov and Yashunin, 2018).

    Returns positions int64 [n, k] and distances float32 [n, k], k at most n - 1. A row of
    an approximate search with fewer than k results is filled up with its nearest one.
    """
    import faiss

    features = unit(features)
    n, width = features.shape
    k = min(k, n - 1)
    if n <= exact_rows:
        index: Any = faiss.IndexFlatL2(width)
    else:
        index = faiss.IndexHNSWFlat(width, HNSW_LINKS)
        index.hnsw.efConstruction = index.hnsw.efSearch = HNSW_DEPTH
    threads = faiss.omp_get_max_threads()
    if n > exact_rows:  # links depend on who comes first: one run must be like another
        faiss.omp_set_num_threads(1)
    try:
        index.add(features)
    finally:
        faiss.omp_set_num_threads(threads)
    neighbours = np.empty((n, k), np.int64)
    distances = np.empty((n, k), np.float32)
    for first in range(0, n, BLOCK) if k else ():
        rows = np.arange(first, min(first + BLOCK, n))
        _, found = index.search(features[rows], k + 1)
        neighbours[rows] = _without_self(found, rows)
        apart = features[rows][:, None] - features[neighbours[rows]]  # [block, k, D]
        # Measured again: faiss's |x|² + |y|² - 2xy loses the digits of small distances.
        distances[rows] = np.linalg.norm(apart, axis=2)
    return neighbours, distances


def clusters(features: NDArray[np.float32], count: int, *, seed: int = 0) -> Ints:
    """The k-means cluster of every row, int64 [n], from 0; unit vectors, Euclidean distance.

    features: [n, D]; scaled to length 1 here. count: clusters, at most n. The same on every
    run with one seed: a single thread adds up.
    """
    import faiss

    features = unit(features)
    means = faiss.Kmeans(
        features.shape[1],
        min(count, len(features)),
        niter=CLUSTER_ROUNDS,
        seed=stream_seed(seed, "clusters") % 2**31,
        min_points_per_centroid=1,
    )
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        means.train(features)
        _, nearest_mean = means.index.search(features, 1)
    finally:
        faiss.omp_set_num_threads(threads)
    found: Ints = nearest_mean[:, 0].astype(np.int64)
    return found


def unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row [D] scaled to length 1; a row of zeros stays one."""
    scaled = np.array(features, np.float32, order="C")
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    scaled /= np.where(length > 0, length, 1)
    return scaled


def _without_self(found: Ints, rows: Ints) -> Ints:
    """Drop each row's own position from its k + 1 results [b, k + 1] (the last, if absent)."""
    own = found == rows[:, None]
    own[~own.any(axis=1), -1] = True
    others = found[~own].reshape(len(rows), -1)
    return np.where(others < 0, others[:, :1], others)
