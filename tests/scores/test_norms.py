import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from staff.scores import norms
from staff.scores.norms import gram_is_cheaper, squared_norms

small = st.integers(1, 6)


@settings(max_examples=40, deadline=None)
@given(batch=st.integers(0, 4), length=small, d_in=small, d_out=small, seed=st.integers(0, 99))
def test_both_sides_equal_the_gradient_matrix(batch, length, d_in, d_out, seed):
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(batch, length, d_out, generator=generator, dtype=torch.float64)
    x = torch.randn(batch, length, d_in, generator=generator, dtype=torch.float64)
    matrices = [sum(torch.outer(g[i, t], x[i, t]) for t in range(length)) for i in range(batch)]
    expected = [float(m.square().sum()) for m in matrices]
    np.testing.assert_allclose(squared_norms(g, x).numpy(), expected, rtol=1e-9)
    for gram in (True, False):
        ours = norms._squared_norms(g, x, gram=gram)
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_the_cheaper_side_by_hand():
    # T = 10, d_in = 20, d_out = 30: 10·10·50 = 5,000 against 10·20·30 = 6,000.
    assert gram_is_cheaper(length=10, d_in=20, d_out=30)
    assert not gram_is_cheaper(length=13, d_in=20, d_out=30)  # 8,450 against 7,800


def test_a_batch_is_split_to_bound_memory_by_hand(monkeypatch):
    # T = 3: matrices of 4·6 = 24 numbers; T = 2, where 2·(4 + 6) < 24: two of 2·2 numbers each.
    # Of 5 samples that leaves room for 2, 1 and, below one matrix, still 1 at a time; and for 3.
    whole, taken = norms._squared_norms, []
    monkeypatch.setattr(
        norms, "_squared_norms", lambda g, x, **how: taken.append(len(g)) or whole(g, x, **how)
    )
    for length, most, parts in ((3, 50, [2, 2, 1]), (3, 20, [1] * 5), (2, 25, [3, 2])):
        g, x = torch.randn(5, length, 4), torch.randn(5, length, 6)
        monkeypatch.setattr(norms, "MAX_NUMBERS", 2**26)
        wanted = squared_norms(g, x)
        monkeypatch.setattr(norms, "MAX_NUMBERS", most)
        taken.clear()
        torch.testing.assert_close(squared_norms(g, x), wanted)
        assert taken == parts


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_accumulated_in_float32(dtype):
    # 4,096 terms of 1: bfloat16 sums would stop at 256.
    g, x = torch.ones(1, 4096, 1, dtype=dtype), torch.ones(1, 4096, 1, dtype=dtype)
    assert squared_norms(g, x).tolist() == [4096.0**2]


def test_the_final_sum_is_wider_than_float32():
    # 4096² + 1², the last of which float32 would lose.
    assert squared_norms(torch.tensor([[[4096.0, 1.0]]]), torch.ones(1, 1, 1)).tolist() == [
        16777217
    ]


def test_a_sum_that_is_below_zero_by_rounding_alone_is_zero():
    # Gradients that add up to nothing; their rounded products add up to -5e-11.
    g = torch.tensor([0.1, 0.2, 0.0])
    g[2] = -(g[0] + g[1])
    x = torch.full((1, 3, 1), 0.1)
    assert ((g[:, None] * g) * (x[0] @ x[0].T)).double().sum() < 0
    assert norms._squared_norms(g[None, :, None], x, gram=True).tolist() == [0]
