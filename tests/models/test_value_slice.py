import pytest
import torch

from staff.models.value_slice import column_weights, layouts


def test_layouts_by_hand():
    # 4 heads of 2 over 2 key/value heads: [q0..q7 | k0..k3 | v0..v3], or per group q q k v.
    found = {n: c.tolist() for n, c in layouts(d_fused=16, heads=4, head_dim=2)}
    assert found == {"blocks": [12, 13, 14, 15], "groups": [6, 7, 14, 15]}
    # One key/value head: both are the same, so there is one.
    assert [n for n, _ in layouts(d_fused=12, heads=4, head_dim=2)] == ["blocks"]
    # As many: a quarter is [q q | v v | k k].
    found = {n: c.tolist() for n, c in layouts(d_fused=24, heads=4, head_dim=2)}
    assert found["quarters"] == [2, 3, 8, 9, 14, 15, 20, 21]
    # Per head [k0 k1 k2 | v0 v1], and no query.
    [(name, columns)] = layouts(d_fused=10, heads=2, head_dim=4, value_dim=2)
    assert (name, columns.tolist()) == ("latent", [3, 4, 8, 9])


@pytest.mark.parametrize("d_fused", [17, 14, 8])
def test_sizes_that_are_no_fused_projection(d_fused):
    assert list(layouts(d_fused=d_fused, heads=4, head_dim=2)) == []


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_queries_and_keys_have_no_gradient_at_one_token(tiny, attention):
    model = tiny("gpt-neox")
    model.set_attn_implementation(attention)
    weights = column_weights(model, model.gpt_neox.layers[-1].attention.query_key_value)
    weights = weights.view(4, 3, 8)  # heads, (q, k, v), head_dim
    assert weights[:, :2].max() < 1e-4 * weights[:, 2].mean()
    assert not any(m._forward_hooks for m in model.modules())
    assert torch.isfinite(weights).all()
