import torch
from torch import nn

from staff.models.response_logits import gathered
from staff.scores.taps import gradients, tapped


class Clamping(nn.Module):
    """Clamps its values in place, as some models do, and calls one layer twice."""

    def __init__(self):
        super().__init__()
        self.value, self.head = nn.Linear(3, 3), nn.Linear(3, 5)

    def forward(self, x):
        values = self.value(x)
        values.clamp_(-1, 1)
        return self.head(self.value(values))


def test_gradients_of_every_call_equal_those_of_the_weight():
    torch.manual_seed(0)
    model, x = Clamping(), torch.randn(2, 4, 3)
    model(x).sum().backward()
    expected = model.value.weight.grad.clone()
    model.requires_grad_(False)
    with tapped([model.value]) as taps:
        logits = model(x)
    (found,) = gradients(logits, torch.ones_like(logits), taps)
    ours = sum(
        torch.einsum("bto,bti->oi", g, i) for g, i in zip(found, taps[0].inputs, strict=True)
    )
    torch.testing.assert_close(ours, expected)


def test_a_layer_that_never_reaches_the_loss_has_gradient_zero():
    model, x = Clamping().requires_grad_(False), torch.randn(2, 4, 3)
    unused = nn.Linear(3, 3).requires_grad_(False)
    with tapped([model.value, unused]) as taps:
        logits = model(x)
        unused(x)
    found = gradients(logits, torch.ones_like(logits), taps)
    assert found[1][0].abs().max() == 0


def test_a_layer_that_is_never_called_has_no_gradients():
    model = Clamping().requires_grad_(False)
    with tapped([nn.Linear(3, 3)]) as taps:
        logits = model(torch.randn(2, 4, 3))
    assert gradients(logits, torch.ones_like(logits), taps) == [[]]


def test_hooks_are_gone_even_after_an_error():
    model = Clamping()
    try:
        with tapped([model.value]), gathered(model.head, torch.tensor([0])):
            raise ValueError
    except ValueError:
        pass
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
