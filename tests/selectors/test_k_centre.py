import numpy as np
import pytest

from staff.selectors import k_centre, select_k_centre


def naive(features, start, total):
    """One pass over all rows a pick, in float64."""
    nearest = np.full(len(features), np.inf)
    picks = [start]
    while len(picks) < total:
        nearest = np.minimum(nearest, np.linalg.norm(features - features[picks[-1]], axis=1))
        nearest[picks] = -1
        picks.append(int(nearest.argmax()))
    return picks


def test_by_hand():
    # On a line 0, 1, 4, 9, 20 from row 4: the farthest is 0 (20 away), then 9 (9 from 0,
    # 11 from 20), then 4 (4 from 0, 5 from 9), then 1.
    features = [[0.0], [1.0], [4.0], [9.0], [20.0]]
    for scale in (1, 1e-3, 1e3):
        picks = k_centre._traverse(scale * np.array(features, np.float32), 4, 5)
        assert picks.tolist() == [4, 0, 3, 2, 1]


def test_ties_go_by_smaller_key_by_hand():
    # A square and its centre; from the centre all corners are equally far.
    features = [[0.0, 0.0], [1, 1], [1, -1], [-1, 1], [-1, -1]]
    for seed in range(20):
        order = select_k_centre(features=features, total=5, keys=[9, 8, 7, 6, 5], seed=seed).order
        if order[0] == 0:
            break
    # To the corners left the centre stays the nearest, so they too come by key.
    assert order.tolist() == [0, 4, 3, 2, 1]


@pytest.mark.parametrize("block", [1, 2, 7, 64])
@pytest.mark.parametrize("clustered", [False, True])
def test_blocks_change_nothing(block, clustered, monkeypatch):
    monkeypatch.setattr(k_centre, "BLOCK", block)
    random = np.random.default_rng(block)
    features = random.normal(size=(300, 6))
    if clustered:
        features += 30 * random.integers(0, 3, (300, 1))
    picks = k_centre._traverse(features.astype(np.float32), 17, 300)
    assert picks[:120].tolist() == naive(features.astype(np.float32).astype(float), 17, 120)
    assert sorted(picks.tolist()) == list(range(300))


@pytest.mark.parametrize("scale", [2.0**-140, 2.0**-80, 2.0**80, 2.0**126])
def test_the_scale_of_the_features_does_not_matter(scale):
    # Their squares are not float32; only the smallest lose digits, all but those of the clusters.
    features = np.kron(np.eye(3), np.ones((4, 1))) + np.arange(12)[:, None] / 1024
    order = select_k_centre(features=features * scale, total=12, seed=1).order
    assert sorted(order[:3] // 4) == [0, 1, 2]
    assert sorted(order.tolist()) == list(range(12))


def test_duplicates_come_last():
    features = np.repeat(np.eye(3), 4, axis=0) * 1e3 + 7
    order = select_k_centre(features=features, total=12, seed=1).order
    assert sorted(order[:3] // 4) == [0, 1, 2]
    assert sorted(order.tolist()) == list(range(12))
