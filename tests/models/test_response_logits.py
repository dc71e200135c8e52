import pytest
import torch
from torch import nn

from staff.errors import ModelError
from staff.models.response_logits import gathered, output_head, rounded_up, take_rows

ROWS = torch.tensor([1, 5])  # of 2·3 tokens


def test_the_head_sees_the_given_tokens_only():
    head, seen = nn.Linear(4, 5), []
    states = torch.randn(2, 3, 4)
    expected = head(states).flatten(0, 1)
    head.register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape))
    with gathered(head, ROWS) as kept:
        out = head(states)
    assert seen == [(1, 2, 4)]
    torch.testing.assert_close(out[0], expected[ROWS])
    assert torch.equal(kept[0], states)
    assert torch.equal(take_rows(states, ROWS)[0], states.flatten(0, 1)[ROWS])
    torch.testing.assert_close(head(states).flatten(0, 1), expected)  # the hook is gone


def test_the_hook_is_gone_even_after_an_error():
    head = nn.Linear(4, 5)
    with pytest.raises(ValueError, match="x"), gathered(head, ROWS):
        raise ValueError("x")
    assert not head._forward_pre_hooks


def test_a_model_without_output_head(tiny):
    with pytest.raises(ModelError, match="LlamaModel has no output head"):
        output_head(tiny("llama").model)


def test_places_are_rounded_up_with_others_by_hand():
    places = torch.tensor([1, 4])
    assert rounded_up(places, 4, total=6).tolist() == [1, 4, 0, 2]
    assert rounded_up(places, 2, total=6).tolist() == [1, 4]
