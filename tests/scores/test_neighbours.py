import subprocess
import sys

import numpy as np
import pytest

from staff.scores.neighbours import clusters, nearest, unit

pytest.importorskip("faiss")


def exactly(features, k):
    apart = np.linalg.norm(features[:, None] - features[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    near = np.argsort(apart, axis=1, kind="stable")[:, :k]
    return near, np.take_along_axis(apart, near, axis=1)


def test_by_hand():
    # Directions 0°, 90°, 10° (as lengths 1, 2, 3: only the direction counts).
    angle = np.radians([0, 90, 10])
    features = np.stack([np.cos(angle), np.sin(angle)], axis=1) * [[1], [2], [3]]
    neighbours, distances = nearest(features, 1)
    assert neighbours.tolist() == [[2], [2], [0]]
    # A chord of angle a is 2·sin(a/2): 10°, 80°, 10°.
    np.testing.assert_allclose(distances[:, 0], 2 * np.sin(np.radians([5, 40, 5])), rtol=1e-6)


def test_exact_search_against_brute_force():
    features = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
    neighbours, distances = nearest(features, 7)
    known, apart = exactly(unit(features).astype(float), 7)
    assert np.array_equal(neighbours, known)
    np.testing.assert_allclose(distances, apart, rtol=1e-5)


def test_approximate_search_finds_nearly_all():
    features = np.random.default_rng(1).normal(size=(800, 8)).astype(np.float32)
    neighbours, _ = nearest(features, 5, exact_rows=100)
    known, _ = exactly(unit(features).astype(float), 5)
    found = np.mean([len(set(a) & set(b)) for a, b in zip(neighbours, known, strict=True)]) / 5
    assert found > 0.95
    assert not (neighbours == np.arange(800)[:, None]).any()


def test_duplicates_and_zeros_are_no_neighbours_of_themselves():
    features = np.zeros((40, 3), np.float32)
    features[20:, 0] = 1.0
    neighbours, distances = nearest(features, 10)
    assert not (neighbours == np.arange(40)[:, None]).any()
    assert (distances == 0).all()
    assert all(len(set(row)) == 10 for row in neighbours.tolist())


@pytest.mark.parametrize("n", [1, 2, 4])
def test_fewer_rows_than_neighbours(n):
    neighbours, distances = nearest(np.eye(n, 5), 10)
    assert neighbours.shape == distances.shape == (n, n - 1)


def test_faiss_is_imported_late():
    code = "import sys, staff.selectors, staff.scores.neighbours; sys.exit('faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_clusters_that_lie_apart_are_found():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    features = (np.eye(3, 8)[truth] + 0.05 * rng.normal(size=(300, 8))).astype(np.float32)
    found = clusters(features, 3, seed=1)
    assert len({(a, b) for a, b in zip(found.tolist(), truth.tolist(), strict=True)}) == 3
    assert sorted(set(found.tolist())) == [0, 1, 2]
    assert np.array_equal(found, clusters(features, 3, seed=1))
    assert np.array_equal(found, clusters(1000 * features, 3, seed=1))  # length does not count


@pytest.mark.parametrize("n", [1, 2, 5])
def test_no_more_clusters_than_rows(n):
    assert set(clusters(np.eye(n, 5, dtype=np.float32), 50).tolist()) <= set(range(n))
