import pytest
import torch
from transformers import AttentionInterface

from staff.models.value_projection import find_value_projection
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


def with_a_sink(_module, query, key, value, _mask, *, scaling, **_):
    """Of a token alone: it gives half of its attention away, or so (GPT-OSS)."""
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    scores = (query * key).sum(-1, keepdim=True) * scaling  # [B, H, 1, 1]
    return (scores.sigmoid() * value).transpose(1, 2), None


AttentionInterface.register("with_a_sink", with_a_sink)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "with_a_sink"])
def test_queries_and_keys_have_no_gradient_where_values_are_zero(tiny, attention):
    model = tiny("gpt-neox")
    model.set_attn_implementation(attention)
    places = torch.arange(96).view(4, 3, 8)  # heads, (q, k, v), head_dim
    layer = model.gpt_neox.layers[-1].attention.query_key_value
    weights = column_weights(model, layer, zero=places[:, 2].flatten()).view(4, 3, 8)
    assert weights[:, :2].max() < 1e-4 * weights[:, 2].mean()
    assert not any(m._forward_hooks for m in model.modules())
    assert torch.isfinite(weights).all()


@pytest.mark.parametrize("family", ["phi3", "gpt-neox"])
def test_values_are_found_where_a_token_attends_to_itself_in_part(tiny, family):
    model = tiny(family)
    plain = find_value_projection(model).columns
    model.set_attn_implementation("with_a_sink")
    assert torch.equal(find_value_projection(model).columns, plain)
