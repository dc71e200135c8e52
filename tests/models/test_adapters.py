import torch

from staff.models.adapters import attach_fresh, lora_layers, lora_parameters


def test_all_linear_layers_but_the_head(tiny):
    model = attach_fresh(tiny("llama"), seed=0)
    adapted = {
        n.rpartition(".lora_A")[0].rpartition(".")[2]
        for n, _ in model.named_modules()
        if n.endswith("lora_A.default")
    }
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    layers = lora_layers(model)
    assert len(layers) == 2 * 7 * 2  # A and B, seven layers a block, two blocks
    assert {id(layer.weight) for layer in layers} == {id(p) for p in lora_parameters(model)}
    assert model.peft_config["default"].r == 8
    assert model.peft_config["default"].lora_alpha == 16


def test_the_draw_follows_the_seed_and_spares_the_global_generator(tiny):
    def drawn(seed):
        return torch.cat(
            [p.flatten() for p in lora_parameters(attach_fresh(tiny("gpt2"), seed=seed))]
        )

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    model = tiny("gpt2")
    torch.manual_seed(9)
    before = torch.get_rng_state()
    attach_fresh(model, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_no_gpu_has_a_part_in_the_draw(tiny, monkeypatch):
    """Looking after the generators of all would start each, with a warning where they are many."""

    def refuse(*args):
        raise AssertionError("a GPU's generator")

    model = tiny("llama")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("get_rng_state", "set_rng_state", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    attach_fresh(model, seed=1)


def test_stacked_experts_are_not_layers(tiny):
    model = attach_fresh(tiny("mixtral"), seed=0)
    assert lora_parameters(model)
    assert lora_layers(model) == []


def test_layers_that_peft_cannot_adapt_are_left_out(tiny, hybrid):
    """The output of a state space; a router that returns its choice, too (Llama 4)."""
    routed = {"model_type": "llama4_text", "num_key_value_heads": 2, "num_local_experts": 2}
    for changes, left_out in ((hybrid, "out_proj"), (routed, "router")):
        model = tiny("llama", **changes)
        assert any(name.endswith(left_out) for name, _ in model.named_modules())
        attach_fresh(model, seed=0)
        assert not any(left_out in n for n, _ in model.named_parameters() if "lora_" in n)
        assert lora_parameters(model)
        model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False)


def test_a_model_without_adapter_has_neither(tiny):
    assert lora_layers(tiny("llama")) == []
    assert lora_parameters(tiny("llama")) == []
