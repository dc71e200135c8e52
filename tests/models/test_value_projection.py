"""The claimed weight *is* the value projection, in every family."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from staff.errors import ModelError
from staff.models.value_projection import (
    check_value_projection,
    find_blocks,
    find_value_projection,
)

FAMILIES = sorted(
    json.loads((Path(__file__).parents[1] / "data" / "families.json").read_text())["families"]
)


def disturb(found, generator):
    """Add noise to the value weight only, through the layer's own parameter."""
    weight = found.module.weight.detach()
    rows = weight.T if found.transposed else weight  # [d_out, d_in], a view
    columns = torch.arange(found.d_value) if found.columns is None else found.columns
    rows[columns] += torch.randn(found.d_value, found.d_in, generator=generator).to(rows) * 0.3


def attention_and_output(model, ids, block):
    kept = []
    handle = block.register_forward_hook(
        lambda _m, _a, out: kept.append(out[0] if isinstance(out, tuple) else out)
    )
    try:
        with torch.no_grad():
            attention = model(input_ids=ids, output_attentions=True, use_cache=False).attentions
    finally:
        handle.remove()
    return attention[-1], kept[0]


def check_is_value_projection(model):
    """Values decide what a block passes on and nothing of where it looks."""
    model.set_attn_implementation("eager")
    found = find_value_projection(model)
    _, blocks, last = find_blocks(model)
    ids = torch.randint(
        3, model.config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(1)
    )
    before, output = attention_and_output(model, ids, blocks[last])
    disturb(found, torch.Generator().manual_seed(2))
    after, changed = attention_and_output(model, ids, blocks[last])
    assert torch.equal(before, after)
    assert before.std() > 0  # attention was really returned, and is not uniform
    assert (output - changed).abs().mean() > 1e-3 * output.abs().mean()
    return found


def test_a_fused_layer_inside_a_layer_of_its_own(tiny):
    """As one that clips what it is given: the values are still only a part of its output."""
    model = tiny("phi3")
    plain = find_value_projection(model)
    for block in find_blocks(model)[1]:
        around = nn.Sequential()
        around.add_module("linear", block.self_attn.qkv_proj)
        block.self_attn.qkv_proj = around
    found = find_value_projection(model)
    assert found.name == f"{plain.name}.linear"
    assert torch.equal(found.columns, plain.columns)


@pytest.mark.parametrize("family", FAMILIES)
def test_disturbing_it_changes_the_output_but_no_attention(tiny, family):
    check_is_value_projection(tiny(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_all_values_are_in_it(tiny, family):
    # With the claimed weight (and the layer's bias) at zero, attention contributes nothing:
    # the output no longer depends on the other tokens of the sequence.
    model = tiny(family)
    found = find_value_projection(model)
    _, blocks, last = find_blocks(model)
    for block in blocks[:last]:  # earlier blocks out of the way, as far as other tokens go
        for module in block.modules():
            if getattr(module, "weight", None) is not None and module.weight.dim() == 2:
                nn.init.zeros_(module.weight)
    weight = found.module.weight.detach()
    rows = weight.T if found.transposed else weight
    rows[torch.arange(found.d_value) if found.columns is None else found.columns] = 0
    ids = torch.tensor([[5, 6, 7, 8], [9, 6, 3, 8]])  # token 8 after different ones
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[:, -1]
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["phi3", "gpt2", "gpt-neox", "bloom", "falcon-40b"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_fused_layouts_are_measured_in_every_dtype(tiny, family, dtype):
    # By hand: 4 heads of 8; Phi-3 and Falcon-40b have 2 key/value heads.
    expected = {
        "phi3": [*range(48, 64)],  # 32 queries, 16 keys, 16 values
        "gpt2": [*range(64, 96)],
        "gpt-neox": [*range(16, 24), *range(40, 48), *range(64, 72), *range(88, 96)],
        "bloom": [*range(16, 24), *range(40, 48), *range(64, 72), *range(88, 96)],
        "falcon-40b": [*range(24, 32), *range(56, 64)],  # per group: 2 queries, key, value
    }
    found = find_value_projection(tiny(family).to(dtype))
    assert found.columns.tolist() == expected[family]


@pytest.mark.parametrize("folder", ["stories260K", "bitstories1M"])
def test_real_weights(shared, folder):
    from staff.models.load import load_model

    path = shared / "models" / folder
    if not path.is_dir():
        pytest.skip("needs the unshipped models")
    found = check_is_value_projection(load_model(str(path), dtype="float32", device="cpu"))
    assert found.name.endswith("v_proj")


def test_inside_a_lora_wrapper_the_adapted_layer_is_taken(tiny):
    from staff.models.adapters import attach_fresh

    model = tiny("llama")
    plain = find_value_projection(model)
    attach_fresh(model, seed=0)
    assert find_value_projection(model).module is plain.module


def test_an_unknown_layer_is_an_error_that_lists_candidates(tiny):
    model = tiny("llama")
    for block in model.model.layers:
        block.self_attn.mystery = block.self_attn.v_proj
        del block.self_attn.v_proj
    with pytest.raises(ModelError, match=r"self_attn\.mystery \[16, 32\]") as error:
        find_value_projection(model)
    assert "no value projection found in the last block (model.layers)" in str(error.value)
    assert "score with --phi lm-head" in str(error.value)


def test_two_candidates_are_an_error_that_names_both(tiny):
    model = tiny("llama")
    model.model.layers[-1].self_attn.value = nn.Linear(32, 16)
    with pytest.raises(ModelError, match=r"self_attn\.v_proj, self_attn\.value|self_attn\.value"):
        find_value_projection(model)


def test_a_fused_layout_that_cannot_be_told_is_an_error(tiny, monkeypatch):
    from staff.models import value_slice

    wrong = [("queries", torch.arange(16)), ("a mixture", torch.arange(40, 56))]
    monkeypatch.setattr(value_slice, "layouts", lambda **_: iter(wrong))
    with pytest.raises(ModelError, match="unknown layout"):
        find_value_projection(tiny("phi3"))


# By hand: 4 heads; of DeepSeek a key of 8 and a value of 4, of CodeGen (a quarter is one head) 8.
OTHERS = {
    "deepseek_v3": [*range(8, 12), *range(20, 24), *range(32, 36), *range(44, 48)],
    "codegen": [*range(8, 16), *range(32, 40), *range(56, 64), *range(80, 88)],
}


@pytest.mark.parametrize("kind", sorted(OTHERS))
def test_values_fused_with_keys_alone_or_by_quarters(tiny, latent, config_only, kind):
    sizes = {"n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_inner": 48}
    changes = {"deepseek_v3": latent, "codegen": {"model_type": "codegen", **sizes}}[kind]
    found = check_is_value_projection(tiny("llama", **changes))
    assert found.columns.tolist() == OTHERS[kind]
    check_value_projection(config_only("llama", **changes))


def test_values_of_a_block_whose_heads_differ_from_other_blocks(tiny, latent, config_only):
    """Dots 3: its config does not tell the number of all heads at once."""
    from transformers import CONFIG_MAPPING

    if "dots3_note_text" not in CONFIG_MAPPING:
        pytest.skip("these transformers have no Dots 3")
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 2, "v_head_dim": 6, "head_dim": 12}
    changes = latent | {
        "model_type": "dots3_note_text",
        "layer_types": ["indexed_attention", "sliding_attention"],
        "mlp_layer_types": ["dense", "dense"],
        "per_layer_config": {"1": sizes},
        "sliding_window": 8,
        "index_head_dim": 8,
        "index_n_heads": 4,
        "index_topk": 64,
    }
    found = find_value_projection(tiny("llama", **changes))
    # By hand: 2 heads, of each a key of 8 and a value of 6.
    assert found.columns.tolist() == [*range(8, 14), *range(22, 28)]
    check_value_projection(config_only("llama", **changes))


@pytest.fixture
def config_only(tiny, tmp_path, monkeypatch):
    """Save the config of a tiny family, and no weights; gives the folder."""
    from staff.models import skeleton

    monkeypatch.setattr(skeleton, "local_folder", lambda path, **_: path)  # it wants weights

    def save(family, **changes):
        tiny(family, **changes).config.save_pretrained(tmp_path)
        return str(tmp_path)

    return save


@pytest.mark.parametrize("family", FAMILIES)
def test_the_check_without_weights_passes_every_family(config_only, family):
    check_value_projection(config_only(family))


def test_the_check_without_weights_finds_what_is_missing(config_only, monkeypatch):
    from staff.models import value_projection

    folder = config_only("llama")
    mamba = {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 101}
    (Path(folder) / "config.json").write_text(json.dumps(mamba))
    with pytest.raises(ModelError, match="no value projection found"):
        check_value_projection(folder)
    monkeypatch.setattr(value_projection, "layouts", lambda **_: iter(()))
    with pytest.raises(ModelError, match=r"fuses queries, .*\(32 to 64\).* unknown layout"):
        check_value_projection(config_only("phi3"))


def test_the_check_allocates_no_weights(config_only):
    # 2 TB of them, which no machine that runs the tests could hold.
    folder = config_only("llama")
    path = Path(folder) / "config.json"
    sizes = {"hidden_size": 2**15, "intermediate_size": 2**17, "num_hidden_layers": 40}
    path.write_text(json.dumps({**json.loads(path.read_text()), **sizes, "head_dim": 2**13}))
    check_value_projection(folder)
