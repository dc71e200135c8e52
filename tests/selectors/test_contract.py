"""What every selector of SELECTORS promises."""

import inspect

import numpy as np
import pytest
import torch

from staff.errors import ConfigError, DataError
from staff.rng import keys_of_ids
from staff.selectors import COSTLY, SCORE, SELECTORS, needs
from staff.selectors.picks import first
from staff.types import REASONS

N, D = 83, 5
RANDOM = np.random.default_rng(11)
SCORES = np.round(RANDOM.gamma(2.0, size=N), 1)  # with ties
ALONE = SCORES + RANDOM.gamma(1.0, size=N) - 0.2
ALONE = np.maximum(ALONE, 0.1)  # a few ratios above 1
FEATURES = np.round(RANDOM.normal(size=(N, D)), 1)
FEATURES[10:14] = FEATURES[9]  # duplicates
TARGET = SCORES * RANDOM.lognormal(size=N)
IDS = [f"row-{i}" for i in range(N)]
TOTALS = (1, 2, 9, 40, N - 1, N)

pytestmark = pytest.mark.parametrize("name", sorted(SELECTORS))


def parameters(name):
    return inspect.signature(SELECTORS[name]).parameters


def select(name, graph, *, order=None, total=20, keyed=True, **replaced):
    """Call a selector with what it asks for; `order` shuffles the input."""
    order = np.arange(N) if order is None else order
    features = FEATURES[order]
    inputs = {
        "scores": SCORES[order],
        "unconditioned": ALONE[order],
        "features": features,
        "connect": graph(features, 4),
        "verify": lambda rows: TARGET[order][rows],
        "n": N,
        "keys": keys_of_ids([IDS[i] for i in order]) if keyed else None,
        "seed": 0,
        **replaced,
    }
    given = {k: v for k, v in inputs.items() if k in parameters(name)}
    return SELECTORS[name](total=total, **given)


def test_total_rows_sorted_each_once_with_reasons(name, graph):
    for total in TOTALS:
        coreset = select(name, graph, total=total)
        assert coreset.rows.dtype == np.int64
        assert len(coreset.rows) == total
        assert np.array_equal(coreset.rows, np.unique(coreset.rows))
        assert 0 <= coreset.rows[0] <= coreset.rows[-1] < N
        chosen = np.isin(coreset.reason, [REASONS.index(r) for r in ("budget", "top-up")])
        assert np.array_equal(np.flatnonzero(chosen), coreset.rows)
        assert not coreset.rows.flags.writeable


def test_an_order_is_that_of_every_smaller_total(name, graph):
    most = select(name, graph, total=N)
    if most.order is None:
        pytest.skip("rows depend on the total")
    for total in TOTALS:
        coreset = select(name, graph, total=total)
        assert coreset.order.tolist() == most.order[:total].tolist()
        assert first(most, total).rows.tolist() == coreset.rows.tolist()
        assert first(most, total).reason.tolist() == coreset.reason.tolist()
        assert first(most, total).order.tolist() == coreset.order.tolist()


def test_the_order_of_the_input_does_not_matter(name, graph):
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(N)
        plain, mixed = select(name, graph), select(name, graph, order=order)
        assert plain.rows.tolist() == sorted(order[mixed.rows].tolist())


def test_the_same_call_gives_the_same_rows(name, graph):
    for keyed in (True, False):
        one, other = (select(name, graph, keyed=keyed) for _ in range(2))
        assert one.rows.tolist() == other.rows.tolist()
        assert one.reason.tolist() == other.reason.tolist()


def test_inputs_are_left_alone(name, graph):
    before = [array.copy() for array in (SCORES, ALONE, FEATURES)]
    select(name, graph)
    features = FEATURES.astype(np.float32)  # the dtype that needs no copy
    kept = features.copy()
    select(name, graph, features=features)
    assert np.array_equal(features, kept)
    for was, array in zip(before, (SCORES, ALONE, FEATURES), strict=True):
        assert np.array_equal(was, array)


@pytest.mark.parametrize("total", [0, -1, N + 1, 2.5, "x"])
def test_totals_out_of_range(name, graph, total):
    with pytest.raises(ConfigError, match="total must be"):
        select(name, graph, total=total)


@pytest.mark.parametrize("argument", ["scores", "unconditioned", "features", "keys"])
def test_unusable_arrays(name, graph, argument):
    if argument not in parameters(name):
        pytest.skip("not asked for")
    good = {"scores": SCORES, "unconditioned": ALONE, "features": FEATURES, "keys": np.arange(N)}
    array = good[argument].astype(float)
    hole, infinite = array.copy(), array.copy()
    hole[7], infinite[7] = np.nan, np.inf
    masked = np.ma.masked_array(array, mask=~np.isfinite(hole))  # finite under the mask
    far = np.full(array.shape, 10**400, object)  # beyond float64
    graded = torch.tensor(array, requires_grad=argument != "keys")
    for value in (hole, infinite, masked, far, graded, array[None], np.full(array.shape, "x")):
        with pytest.raises(DataError, match=argument.removesuffix("s")):
            select(name, graph, **{argument: value})
    if array.ndim == 1 and name != "random":  # one row fewer than everything else
        with pytest.raises(DataError):
            select(name, graph, **{argument: good[argument][:-1]})


def test_what_it_needs_is_known(name, graph):
    assert needs(name) <= set(COSTLY)
    assert ("scores" in needs(name)) == (name in SCORE)
    assert (inspect.getdoc(SELECTORS[name]) or "").strip()
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters(name).values())
