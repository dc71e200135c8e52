"""Pickled weights and a model's own code: refused, or used where the user says so."""

import json
import pickle

import pytest
import torch

from staff.errors import ModelError
from staff.models.adapters import attach_fresh
from staff.models.folder import check_adapter, check_model_folder, model_hash
from staff.models.load import load_model, load_tokenizer
from staff.models.trust import Trust, own_code
from staff.models.value_projection import check_value_projection
from staff.models.weights import weight_files
from staff.stages.facts import count_parameters, model_facts

PICKLE, CODE = Trust(pickle=True), Trust(code=True)
OPTIONS = {"dtype": "float32", "device": "cpu"}
IDS = torch.tensor([[5, 6, 7]])


def test_pickled_weights_are_refused_unless_allowed(pickled_model, tiny):
    path = str(pickled_model)
    for refused in (check_model_folder, load_tokenizer, load_model, model_hash, count_parameters):
        with pytest.raises(ModelError, match=r"pickled weights only .*add --allow-pickle"):
            refused(path)
    check_model_folder(path, trust=PICKLE)
    model = load_model(path, trust=PICKLE, **OPTIONS)
    torch.testing.assert_close(model(input_ids=IDS).logits, tiny("llama")(input_ids=IDS).logits)


def test_pickled_weights_are_hashed_and_counted(pickled_model, tiny):
    path, file = str(pickled_model), pickled_model / "pytorch_model.bin"
    assert count_parameters(path, trust=PICKLE) == sum(
        p.numel() for p in tiny("llama").parameters()
    )
    before = model_hash(path, trust=PICKLE)
    state = torch.load(file, weights_only=True)
    state["model.norm.weight"] += 1
    torch.save(state, file)
    assert model_hash(path, trust=PICKLE) != before
    facts = model_facts(small=path, trust=PICKLE)["small"]
    assert facts["hash"] == model_hash(path, trust=PICKLE)


def test_tied_weights_of_a_pickle_are_counted_once(pickled_model):
    state = torch.load(pickled_model / "pytorch_model.bin", weights_only=True)
    before = count_parameters(str(pickled_model), trust=PICKLE)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    torch.save(state, pickled_model / "pytorch_model.bin")
    after = count_parameters(str(pickled_model), trust=PICKLE)
    assert after in (before, before - state["lm_head.weight"].numel())
    assert after < sum(tensor.numel() for tensor in state.values())


def test_shards_of_pickled_weights(pickled_model):
    state = torch.load(pickled_model / "pytorch_model.bin", weights_only=True)
    (pickled_model / "pytorch_model.bin").unlink()
    names = sorted(state)
    parts = {
        "pytorch_model-00001-of-00002.bin": names[::2],
        "pytorch_model-00002-of-00002.bin": names[1::2],
    }
    for part, held in parts.items():
        torch.save({name: state[name] for name in held}, pickled_model / part)
    index = {"metadata": {}, "weight_map": {n: part for part, held in parts.items() for n in held}}
    (pickled_model / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert [file.name for file in weight_files(pickled_model)] == sorted(parts)
    with pytest.raises(ModelError, match="--allow-pickle"):
        check_model_folder(str(pickled_model))
    loaded = load_model(str(pickled_model), trust=PICKLE, **OPTIONS).state_dict()
    assert torch.equal(loaded["model.norm.weight"], state["model.norm.weight"])


def test_safetensors_are_taken_where_both_are(plain_model, hostile, marker):
    before = model_hash(str(plain_model))
    hostile(plain_model / "pytorch_model.bin")
    load_model(str(plain_model), trust=PICKLE, **OPTIONS)
    assert model_hash(str(plain_model), trust=PICKLE) == before
    assert not marker.exists()


def test_the_payload_of_these_tests_works(hostile, marker, tmp_path):
    hostile(tmp_path / "x", by_torch=False)
    pickle.loads((tmp_path / "x").read_bytes())
    assert marker.exists()
    marker.unlink()
    hostile(tmp_path / "y")
    torch.load(tmp_path / "y", weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("by_torch", [True, False])
@pytest.mark.parametrize("trust", [Trust(), PICKLE, CODE, Trust(pickle=True, code=True)])
def test_a_pickle_never_runs(pickled_model, hostile, marker, trust, by_torch):
    path = str(pickled_model)
    hostile(pickled_model / "pytorch_model.bin", by_torch=by_torch)
    wanted = "as weights alone: it is damaged, or holds code" if trust.pickle else "--allow-pickle"
    for read in (count_parameters, load_model):
        with pytest.raises(ModelError, match=wanted):
            read(path, trust=trust)
    assert not marker.exists()


@pytest.mark.parametrize("trust", [Trust(), PICKLE])
def test_an_index_of_safetensors_names_no_pickle(plain_model, hostile, marker, trust):
    (plain_model / "model.safetensors").unlink()
    hostile(plain_model / "pytorch_model.bin")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "pytorch_model.bin"}}
    (plain_model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"names pytorch_model\.bin, which is not a \.safetensors"):
        load_model(str(plain_model), trust=trust, **OPTIONS)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["../../x.safetensors", "/x.safetensors", "a/../../x.safetensors"])
def test_an_index_names_no_file_elsewhere(plain_model, name):
    (plain_model / "model.safetensors").rename(plain_model.parent / "x.safetensors")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": name}}
    (plain_model / "model.safetensors.index.json").write_text(json.dumps(index))
    for refused in (check_model_folder, load_model, model_hash):
        with pytest.raises(ModelError, match="names a file outside its folder"):
            refused(str(plain_model))


def test_what_is_hashed_is_what_is_loaded(plain_model):
    """transformers takes model.safetensors before an index, and what the config names before both."""
    index = {"metadata": {}, "weight_map": {"x": "other.safetensors"}}
    (plain_model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [file.name for file in weight_files(plain_model)] == ["model.safetensors"]
    config = json.loads((plain_model / "config.json").read_text())
    (plain_model / "config.json").write_text(
        json.dumps({**config, "transformers_weights": "adapter_model.bin"})
    )
    with pytest.raises(ModelError, match="names its own weight file"):
        check_model_folder(str(plain_model))


def test_an_adapter_hidden_in_a_model_folder_is_not_put_on(plain_model, hostile, marker):
    (plain_model / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    hostile(plain_model / "adapter_model.bin")
    with pytest.raises(ModelError, match="both a model and a LoRA adapter"):
        load_model(str(plain_model), trust=PICKLE, **OPTIONS)
    assert not marker.exists()


def test_a_pickled_adapter(plain_model, hostile, marker, tmp_path):
    from safetensors.torch import load_file

    adapter = tmp_path / "adapter"
    attach_fresh(load_model(str(plain_model), **OPTIONS), seed=0).save_pretrained(adapter)
    whole = adapter / "adapter_model.safetensors"
    state = load_file(whole)
    whole.unlink()
    load = {"path": str(plain_model), "adapter": str(adapter), **OPTIONS}
    torch.save(state, adapter / "adapter_model.bin")
    for refused in (lambda: check_adapter(str(adapter)), lambda: load_model(**load)):
        with pytest.raises(ModelError, match=r"pickled weights only .*add --allow-pickle"):
            refused()
    load_model(**load, trust=PICKLE)
    load_model(**{**load, "dtype": "bfloat16"}, trust=PICKLE)  # reads the stored dtypes as well
    before = model_hash(str(plain_model), str(adapter), trust=PICKLE)
    hostile(adapter / "adapter_model.bin")
    assert model_hash(str(plain_model), str(adapter), trust=PICKLE) != before
    with pytest.raises(ModelError, match=r"adapter_model\.bin cannot be opened as weights alone"):
        load_model(**load, trust=PICKLE)
    assert not marker.exists()


def test_own_code_is_not_run_unless_trusted(own_code_model, marker, tiny):
    path = str(own_code_model)
    for refused in (load_model, check_value_projection):
        with pytest.raises(
            ModelError, match=r"needs its own code \(modeling_tiny\.py\).*--trust-remote-code"
        ) as error:
            refused(path)
        assert "\n" not in str(error.value)
    assert not marker.exists()
    model = load_model(path, trust=CODE, **OPTIONS)
    assert marker.exists()
    assert type(model).__name__ == "TinyOwnForCausalLM"
    torch.testing.assert_close(model(input_ids=IDS).logits, tiny("llama")(input_ids=IDS).logits)
    check_value_projection(path, trust=CODE)
    assert load_tokenizer(path, trust=CODE).pad_token == "</s>"


def test_a_tokenizers_own_code_is_not_run_unless_trusted(own_code_model, marker):
    (own_code_model / "tok.py").write_text(
        f"from pathlib import Path\nfrom transformers import PreTrainedTokenizerFast\n"
        f"Path({str(marker)!r}).touch()\n"
        f"class TinyTok(PreTrainedTokenizerFast):\n    pass\n"
    )
    config = json.loads((own_code_model / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "TinyTok", "auto_map": {"AutoTokenizer": [None, "tok.TinyTok"]}}
    (own_code_model / "tokenizer_config.json").write_text(json.dumps(config))
    assert "tok.TinyTok" in own_code(own_code_model)
    with pytest.raises(ModelError, match=r"modeling_tiny\.py, tok\.py.*--trust-remote-code"):
        load_tokenizer(str(own_code_model))
    assert not marker.exists()
    assert type(load_tokenizer(str(own_code_model), trust=CODE)).__name__ == "TinyTok"
    assert marker.exists()


def test_trusted_code_is_part_of_the_hash(own_code_model):
    path = str(own_code_model)
    plain, trusted = model_hash(path), model_hash(path, trust=CODE)
    code = own_code_model / "modeling_tiny.py"
    code.write_text(code.read_text() + "\n# another version\n")
    assert model_hash(path) == plain
    assert model_hash(path, trust=CODE) != trusted


def test_code_of_another_repository_is_never_run(own_code_model, marker):
    config = json.loads((own_code_model / "config.json").read_text())
    config["auto_map"]["AutoConfig"] = "somebody/else--modeling_tiny.TinyOwnConfig"
    (own_code_model / "config.json").write_text(json.dumps(config))
    assert "somebody/else--modeling_tiny.TinyOwnConfig" in own_code(own_code_model)
    for trust in (Trust(), CODE):
        with pytest.raises(ModelError):
            load_model(str(own_code_model), trust=trust, **OPTIONS)
    with pytest.raises(ModelError, match=r"code of another repository \(somebody/else\)"):
        check_model_folder(str(own_code_model), trust=CODE)
    assert not marker.exists()


@pytest.mark.parametrize(
    "named",
    [
        {"attn_implementation": "somebody/kernel"},
        {"_attn_implementation": "paged|somebody/kernel@main:f"},
        {"_attn_implementation_internal": {"": "sdpa", "text_config": "somebody/kernel"}},
        {"text_config": {"attn_implementation": "somebody/kernel"}},
    ],
)
@pytest.mark.parametrize("trust", [Trust(), CODE])
def test_a_config_names_no_kernel_on_the_hub(plain_model, named, trust):
    """transformers takes the kernel that a config names, and downloads its code."""
    config = json.loads((plain_model / "config.json").read_text())
    (plain_model / "config.json").write_text(json.dumps({**config, **named}))
    for refused in (load_model, load_tokenizer, check_value_projection, model_hash):
        with pytest.raises(ModelError, match=r"names an attention kernel .*somebody/kernel"):
            refused(str(plain_model), trust=trust)
    (plain_model / "config.json").write_text(json.dumps({**config, "attn_implementation": "sdpa"}))
    assert load_model(str(plain_model), trust=trust, **OPTIONS)


def test_code_that_is_not_needed_is_not_run(plain_model, marker):
    """A known kind of model that brings code all the same: transformers has its own."""
    (plain_model / "modeling_tiny.py").write_text(f"open({str(marker)!r}, 'w')")
    (plain_model / "custom_generate").mkdir()
    (plain_model / "custom_generate" / "generate.py").write_text(f"open({str(marker)!r}, 'w')")
    config = json.loads((plain_model / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_tiny.X"}
    (plain_model / "config.json").write_text(json.dumps(config))
    model = load_model(str(plain_model), **OPTIONS)
    load_tokenizer(str(plain_model))
    model.generate(IDS, max_new_tokens=1, do_sample=False)
    assert not marker.exists()
