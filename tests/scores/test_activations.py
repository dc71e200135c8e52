"""What scoring keeps for the backward pass: the last block and the head, however deep the model."""

import pytest
from torch.autograd.graph import saved_tensors_hooks

from staff.data.batches import collate
from staff.scores.effort import Scorer


def kept(model, batch, **options):
    """Bytes that one scoring pass keeps for its backward pass, weights aside."""
    scorer = Scorer(model, **options)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so no place comes twice
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        scorer(batch)
    return sum(size for size, _ in seen.values())


@pytest.mark.parametrize("phi", ["last-value", "last-value-lora", "lm-head"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt-neox", "mixtral"])
def test_depth_does_not_matter(tiny, rows, family, phi):
    batch = collate(rows, pad_id=0)
    shallow, deep = (
        kept(tiny(family, num_hidden_layers=depth), batch, phi=phi) for depth in (2, 6)
    )
    assert deep == shallow


def test_the_head_alone_keeps_less_than_the_last_block(tiny, rows):
    batch = collate(rows, pad_id=0)
    head, block = (kept(tiny("llama"), batch, phi=phi) for phi in ("lm-head", "last-value"))
    assert head < block / 2


def test_the_whole_graph_grows_with_depth(tiny, rows):
    """So that the measure above can fail."""
    batch = collate(rows, pad_id=0)
    shallow, deep = (
        kept(tiny("llama", num_hidden_layers=depth), batch, phi="adapter") for depth in (2, 6)
    )
    assert deep > 2 * shallow
