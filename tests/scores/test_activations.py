"""What scoring keeps for the backward pass: the last block and the head, however deep the model."""

import pytest

from staff.data.batches import collate
from staff.scores.effort import Scorer


@pytest.fixture
def kept(kept_for_backward):
    """Bytes that one scoring pass keeps for its backward pass, weights aside."""

    def measure(model, batch, **options):
        scorer = Scorer(model, **options)
        return kept_for_backward(model, lambda: scorer(batch))

    return measure


@pytest.mark.parametrize("phi", ["last-value", "last-value-lora", "lm-head"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt-neox", "mixtral"])
def test_depth_does_not_matter(tiny, rows, kept, family, phi):
    batch = collate(rows)
    shallow, deep = (
        kept(tiny(family, num_hidden_layers=depth), batch, phi=phi) for depth in (2, 6)
    )
    assert deep == shallow


def test_the_head_alone_keeps_less_than_the_last_block(tiny, rows, kept):
    batch = collate(rows)
    head, block = (kept(tiny("llama"), batch, phi=phi) for phi in ("lm-head", "last-value"))
    assert head < block / 2


def test_the_whole_graph_grows_with_depth(tiny, rows, kept):
    """So that the measure above can fail."""
    batch = collate(rows)
    shallow, deep = (
        kept(tiny("llama", num_hidden_layers=depth), batch, phi="adapter") for depth in (2, 6)
    )
    assert deep > 2 * shallow
