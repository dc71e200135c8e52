import torch
from torch import nn

from staff.models.narrow import narrowed, that_keep_tokens_apart, token_wise_parts

ROWS = torch.tensor([1, 5])  # of 2·3 tokens


def test_only_the_given_tokens_are_computed():
    layer, seen = nn.Linear(4, 5), []
    states = torch.randn(2, 3, 4)
    expected = layer(states)
    layer.register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape))
    with narrowed([layer], shape=(2, 3), rows=ROWS):
        out = layer(states)
    assert seen == [(1, 2, 4)]
    flat = out.reshape(6, 5)
    torch.testing.assert_close(flat[ROWS], expected.reshape(6, 5)[ROWS])
    assert flat[[0, 2, 3, 4]].abs().max() == 0
    torch.testing.assert_close(layer(states), expected)  # the hooks are gone


def test_keywords_and_second_inputs_are_narrowed_alike():
    class AddsResidual(nn.Module):
        def forward(self, x, *, residual):
            return 2 * x + residual, "router"

    part, x, r = AddsResidual(), torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    with narrowed([part], shape=(2, 3), rows=ROWS):
        out, other = part(x, residual=r)
    torch.testing.assert_close(out.reshape(6, 4)[ROWS], (2 * x + r).reshape(6, 4)[ROWS])
    assert other == "router"


def test_parts_that_mix_tokens_are_told():
    """However little of a token before they carry over."""

    class CarriesOver(nn.Module):
        def forward(self, x):
            return x + 1e-12 * x.cumsum(dim=1), None

    apart, mixing, x = nn.Linear(4, 4), CarriesOver(), torch.randn(2, 3, 4)
    with torch.no_grad():
        found = that_keep_tokens_apart([apart, mixing], lambda: mixing(apart(x)))
    assert found == (apart,)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in (apart, mixing))


def test_other_shapes_are_left_alone():
    # Tokens already flat (6 = 2·3), a batch of another shape, one as what is narrowed comes out, and
    # heads apart: computed whole, nothing zeroed.
    layer = nn.Linear(4, 5)
    for shape in ((6, 4), (3, 2, 4), (1, 2, 4), (2, 3, 7, 4)):
        other = torch.randn(shape)
        expected = layer(other)
        with narrowed([layer], shape=(2, 3), rows=ROWS):
            torch.testing.assert_close(layer(other), expected)


def test_the_parts_are_those_of_the_very_last_block(tiny):
    model = tiny("llama")
    assert token_wise_parts(model) == (model.model.layers[-1].mlp,)
    # A hybrid whose last block does not attend has a value projection earlier: nothing is narrowed.
    last = model.model.layers[-1]
    last.self_attn = nn.Identity()
    assert token_wise_parts(model) == ()
