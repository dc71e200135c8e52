import json
import math
from pathlib import Path

import numpy as np
import pytest

from staff.errors import ConfigError, DataError
from staff.selectors import d2, select_d2
from staff.types import REASONS

CASES = json.loads((Path(__file__).parents[1] / "data" / "golden_d2.json").read_text())
LOG2 = math.log(2)  # at this distance a message carries half


def chain(rows):
    """Nearest neighbour of a, b, c on a line, ab = bc = ln 2: a-b, b-a, c-b."""
    assert rows.tolist() == [0, 1, 2]
    return np.array([[1], [0], [1]]), np.full((3, 1), LOG2)


def test_by_hand():
    # Scores 4, 2, 3 on a - b - c. Density: a 4 + 2/2 = 5, b 2 + 4/2 + 3/2 = 5.5, c 3 + 2/2 = 4.
    # gamma 1: b first; it takes 5.5/2 from a and c: a 2.25, c 1.25. Then a.
    coreset = select_d2(scores=[4, 2, 3], connect=chain, total=3, mislabel_ratio=0, gamma=1)
    assert coreset.order.tolist() == [1, 0, 2]
    # gamma 2: a quarter of 5.5: a 3.625, c 2.625.
    # gamma 0: all of it: a -0.5, c -1.5. a next, whose only neighbour is taken.
    for gamma in (0, 2):
        again = select_d2(scores=[4, 2, 3], connect=chain, total=2, mislabel_ratio=0, gamma=gamma)
        assert again.order.tolist() == [1, 0]


def test_difficulty_alone_would_choose_otherwise_by_hand():
    # Two hard twins (distance 0) and an easier one far away (no edge: k = 1 links it to row
    # 0 with weight exp(-20)). Densities 10 + 9, 9 + 10, about 6. Row 0 takes 19 from row 1.
    def connect(rows):
        return np.array([[1], [0], [0]]), np.array([[0.0], [0.0], [20.0]])

    coreset = select_d2(scores=[10, 9, 6], connect=connect, total=2, mislabel_ratio=0)
    assert coreset.rows.tolist() == [0, 2]


def test_the_graph_is_that_of_the_rows_left(graph):
    asked = []

    def connect(rows):
        asked.append(rows.tolist())
        return np.empty((len(rows), 0), int), np.empty((len(rows), 0))

    scores = [5.0, 1.0, 9.0, 3.0]
    coreset = select_d2(
        scores=scores, connect=connect, total=2, mislabel_ratio=0.25, keys=[40, 30, 20, 10]
    )
    assert asked == [[3, 1, 0]]  # row 2 is cut; in the order of the keys
    assert coreset.order.tolist() == [0, 3]  # without edges, by score
    assert REASONS[coreset.reason[2]] == "cut"
    everything = select_d2(scores=scores, connect=connect, total=4, mislabel_ratio=0.25)
    assert everything.order.tolist() == [0, 3, 1, 2]
    scores = [5.0, 0.0, 8.0, 3.0, 9.0]  # 0 is a score, too
    two_cut = select_d2(scores=scores, connect=connect, total=5, mislabel_ratio=0.4)
    assert two_cut.order.tolist() == [0, 3, 1, 2, 4]


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_the_released_code(case, graph):
    scores, n = np.array(case["scores"]), len(case["scores"])
    total = len(case["picks_in_order"])
    assert total == round(case["keep"] * n)
    connect = graph(case["features"], case["neighbours"])
    options = {"mislabel_ratio": case["mislabel_ratio"], "gamma": case["gamma"]}
    coreset = select_d2(scores=scores, connect=connect, total=total, **options)
    assert coreset.order.tolist() == case["picks_in_order"]
    kept = np.flatnonzero(coreset.reason != REASONS.index("cut"))
    assert kept.tolist() == sorted(case["kept_rows"])
    start, other, distance = d2._symmetric(*connect(kept))
    density = d2._gather(scores[kept], start, other, np.exp(-distance))
    np.testing.assert_allclose(
        density, [case["initial_density"][str(row)] for row in kept], rtol=1e-12
    )


def test_against_a_plain_loop(graph):
    """The heap against taking the maximum of all densities at every step."""
    random = np.random.default_rng(3)
    scores = np.round(random.gamma(2.0, size=90), 1)  # ties
    connect = graph(random.normal(size=(90, 3)), 4)
    for gamma in (0.0, 0.3, 1.0):  # at 0 densities fall below zero, and then rise again
        order = select_d2(
            scores=scores, connect=connect, total=90, mislabel_ratio=0, gamma=gamma
        ).order
        start, other, distance = d2._symmetric(*connect(np.arange(90)))
        density = d2._gather(scores, start, other, np.exp(-distance))
        for row in order:
            assert row == np.argmax(density)
            edges = slice(start[row], start[row + 1])
            density[other[edges]] -= np.exp(-gamma * distance[edges]) * density[row]
            density[row] = -np.inf
        assert len(set(order.tolist())) == 90


def test_errors(graph):
    connect = graph([[0.0], [1.0]], 1)
    for gamma in (-1, np.inf, np.nan):
        with pytest.raises(ConfigError, match=f"gamma must be .* at least 0; got {gamma}"):
            select_d2(scores=[1, 2], connect=connect, total=1, gamma=gamma)
    with pytest.raises(ConfigError, match="mislabel ratio must be at least 0 and below 1"):
        select_d2(scores=[1, 2], connect=connect, total=1, mislabel_ratio=1)
    with pytest.raises(DataError, match="row 1 has -2"):
        select_d2(scores=[1, -2], connect=connect, total=1)
    for wrong, match in [
        ((np.zeros((1, 1), int), np.zeros((1, 1))), r"\[2, k\]; got \(1, 1\)"),
        ((np.full((2, 1), 2), np.zeros((2, 1))), "positions from 0 to 1"),
        ((np.full((2, 1), 0.5), np.zeros((2, 1))), "positions from 0 to 1"),
        (([[1], []], [[0.0], []]), r"neighbours and distances \[2, k\]: "),
        *(
            ((np.zeros((2, 1), int), np.full((2, 1), distance)), "finite and at least 0")
            for distance in (np.nan, np.inf, -1)
        ),
    ]:
        with pytest.raises(DataError, match=match):
            select_d2(scores=[1, 2], connect=lambda rows, w=wrong: w, total=1)
