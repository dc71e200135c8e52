import pytest
import torch
from peft import LoraConfig, get_peft_model

from staff.data.batches import collate
from staff.errors import ConfigError
from staff.models.value_projection import find_value_projection
from staff.scores.effort import Scorer
from staff.scores.oracle import oracle_effort


def test_it_is_a_derivative(tiny, rows):
    # Along its own direction the loss grows by ‖∇‖ per unit step (central difference).
    # The model casts its logits to float32 for the loss, which bounds how small a step may be.
    model = tiny("llama").double()
    row = rows[2]
    weight = find_value_projection(model).module.weight
    weight.requires_grad_(True)
    ids, labels = torch.tensor(row.input_ids)[None], torch.tensor(row.labels)[None]
    model(input_ids=ids, labels=labels).loss.backward()
    direction = weight.grad / weight.grad.norm()
    start, step = weight.detach().clone(), 1e-2
    losses = []
    with torch.no_grad():
        for sign in (1, -1):
            weight.copy_(start + sign * step * direction)
            losses.append(float(model(input_ids=ids, labels=labels).loss))
        weight.copy_(start)
    slope = (losses[0] - losses[1]) / (2 * step)
    assert oracle_effort(model, row) == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("phi", ["last-value", "last-value-lora", "lm-head"])
def test_the_model_is_left_as_it_was(tiny, rows, phi):
    model = tiny("llama-tied").train()
    model.model.layers[0].eval()  # as a user froze it
    modes = {name: module.training for name, module in model.named_modules()}
    before = {name: p.clone() for name, p in model.state_dict().items()}
    modules = dict(model.named_modules())
    oracle_effort(model, rows[0], phi=phi)
    assert dict(model.named_modules()) == modules
    assert {name: module.training for name, module in modules.items()} == modes
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    oracle_effort(model, rows[0], phi=phi)
    assert (model.lm_head.weight.grad == 1).all()  # a training loop's gradients survive
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("phi", ["last-value-lora", "lm-head"])
@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_beside_the_weights_counts(tiny, rows, phi, dora):
    """As of a quantised model, whose adapter is not merged."""
    how = {"target_modules": ["v_proj", "lm_head"], "init_lora_weights": False}
    torch.manual_seed(0)
    model = get_peft_model(tiny("llama"), LoraConfig(use_dora=dora, **how))
    found = Scorer(model, phi=phi, signals=())(collate(rows))["effort"]
    truth = [oracle_effort(model, row, phi=phi) for row in rows]
    assert found == pytest.approx(truth, rel=1e-4)


def test_unknown_phi(tiny, rows):
    with pytest.raises(ConfigError, match="adapter, last-value"):
        oracle_effort(tiny("llama"), rows[0], phi="everything")
