import json
import warnings
from importlib.metadata import version
from itertools import product

import pytest
import torch
from packaging.version import Version
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from staff.data.tokenise import Tokeniser
from staff.errors import ModelError
from staff.models.adapters import attach_fresh
from staff.models.load import load_model, load_tokenizer
from staff.types import Example


def make_tokenizer(size, **special):
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, size)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


@pytest.fixture
def folder(tiny, tmp_path):
    where = tmp_path / "model"
    tiny("llama").save_pretrained(where)
    make_tokenizer(101, unk_token="<unk>", eos_token="</s>").save_pretrained(where)
    return where


def test_a_model_comes_frozen_in_eval_mode_with_the_dtype_asked_for(folder, tiny):
    model = load_model(str(folder), dtype="float32", device="cpu")
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(model(input_ids=ids).logits, tiny("llama")(input_ids=ids).logits)
    assert load_model(str(folder), dtype="bfloat16", device="cpu").dtype == torch.bfloat16


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_a_model_attends_by_the_kernel_asked_for(folder, tiny, kernel):
    ids = torch.tensor([[5, 6, 7, 8]])
    model = load_model(str(folder), dtype="float32", device="cpu", attention=kernel)
    assert model.config._attn_implementation == kernel
    torch.testing.assert_close(model(input_ids=ids).logits, tiny("llama")(input_ids=ids).logits)


def test_a_kernel_that_a_model_has_not_is_told(tiny, tmp_path):
    tiny("gemma2").save_pretrained(tmp_path)
    make_tokenizer(101, unk_token="<unk>", eos_token="</s>").save_pretrained(tmp_path)
    assert load_model(str(tmp_path), device="cpu").config._attn_implementation == "eager"
    with pytest.raises(
        ModelError, match=r"does not support attention sdpa: .*gemma2.*--attention auto"
    ):
        load_model(str(tmp_path), device="cpu", attention="sdpa")


def test_what_a_gpu_keeps_of_earlier_batches_goes_before_weights_come(folder, monkeypatch):
    def released():
        raise InterruptedError  # there is no GPU to load to

    monkeypatch.setattr("staff.models.load.choose_device", torch.device)
    monkeypatch.setattr("staff.models.load.release_memory", released)
    with pytest.raises(InterruptedError):
        load_model(str(folder), dtype="float32", device="cuda:0")
    load_model(str(folder), dtype="float32", device="cpu")


def test_a_tokenizer_without_pad_token_pads_with_what_it_has(folder, tmp_path):
    assert load_tokenizer(str(folder)).pad_token == "</s>"
    make_tokenizer(101, unk_token="<unk>").save_pretrained(folder)
    assert load_tokenizer(str(folder)).pad_token == "<unk>"
    make_tokenizer(101).save_pretrained(folder)
    assert load_tokenizer(str(folder)).pad_token_id == 0


def test_a_tokenizer_larger_than_the_embedding(folder):
    make_tokenizer(102, unk_token="<unk>").save_pretrained(folder)
    with pytest.raises(ModelError, match="ids up to 101, but the model embeds only 101"):
        load_tokenizer(str(folder))


def add_special(tokenizer, token):
    tokenizer.add_special_tokens({"extra_special_tokens": [token]})
    return tokenizer


def test_a_special_token_that_no_text_can_hold_may_lie_beyond_the_embedding(folder):
    # As Gemma 3 1B's place for an image: 262144 with 262144 embedded.
    tokenizer = add_special(make_tokenizer(101, unk_token="<unk>", eos_token="</s>"), "<image>")
    assert tokenizer.convert_tokens_to_ids("<image>") == 101
    tokenizer.save_pretrained(folder)
    loaded = load_tokenizer(str(folder))
    rows = Tokeniser(loaded, max_length=None).encode(
        Example(id="x", prompt="w5 <image>", response="w6 <image> w7")
    )
    assert max(rows.input_ids) < 101
    # The chat template writes it: now it does matter.
    tokenizer.chat_template = "{% for m in messages %}<image>{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="ids up to 101"):
        load_tokenizer(str(folder))


def test_an_end_token_beyond_the_embedding_is_refused(folder):
    tokenizer = make_tokenizer(101, unk_token="<unk>", eos_token="<|end|>")
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="ids up to 101"):
        load_tokenizer(str(folder))


def test_a_pad_token_beyond_the_embedding_is_not_used(folder):
    tokenizer = make_tokenizer(101, unk_token="<unk>", eos_token="</s>", pad_token="[PAD]")
    assert tokenizer.pad_token_id == 101
    tokenizer.save_pretrained(folder)
    assert load_tokenizer(str(folder)).pad_token == "</s>"


def test_a_broken_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer in .* cannot be loaded"):
        load_tokenizer(str(folder))


def test_truncated_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(folder), device="cpu")


def test_missing_weights_are_not_made_up(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"lacks weights .*model\.layers\.2"):
        load_model(str(folder), device="cpu")


def test_an_adapter_is_merged_or_kept_beside(folder, trained_lora, tmp_path):
    model = load_model(str(folder), dtype="float32", device="cpu")
    peft = trained_lora(model, tmp_path / "adapter")
    ids = torch.tensor([[5, 6, 7]])
    expected = peft(input_ids=ids).logits
    options = {"dtype": "float32", "device": "cpu", "adapter": str(tmp_path / "adapter")}
    merged = load_model(str(folder), **options)
    beside = load_model(str(folder), **options, merge=False)
    torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(beside(input_ids=ids).logits, expected)
    assert not any("lora_" in n for n, _ in merged.named_parameters())
    assert any("lora_" in n for n, _ in beside.named_parameters())
    assert not any(p.requires_grad for p in beside.parameters())


@pytest.mark.parametrize(
    "trained",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
    ],
)
def test_an_adapter_that_changes_one_use_of_a_tied_weight(folder, tiny, tmp_path, trained):
    """What is added to the head must not be added to the embedding, nor the other way round."""
    tiny("llama-tied").save_pretrained(folder)
    how = {"r": 4, "task_type": "CAUSAL_LM", "target_modules": ["q_proj"], **trained}
    peft = get_peft_model(tiny("llama-tied"), LoraConfig(**how))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in peft.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) / 4)
        peft.save_pretrained(tmp_path / "adapter")
        ids = torch.tensor([[5, 6, 7]])
        expected = peft.eval()(input_ids=ids).logits
    assert (expected - tiny("llama-tied")(input_ids=ids).logits).abs().max() > 1
    # In half precision the sum of weights and adapter is rounded into a model that is tied.
    for dtype, apart in (("float32", 1e-4), ("bfloat16", 0.2)):
        adapter = str(tmp_path / "adapter")
        merged = load_model(str(folder), dtype=dtype, device="cpu", adapter=adapter)
        found = merged(input_ids=ids).logits.float()
        torch.testing.assert_close(found, expected, rtol=0, atol=apart)


@pytest.mark.skipif(
    Version(version("transformers")) < Version("5.1"),
    reason="PEFT 0.21 calls a converter that is not there yet",
)
def test_an_adapter_with_the_names_of_transformers_4(folder, tiny, tmp_path):
    """An expert was a module of its own then; PEFT stacks what such an adapter holds."""
    model = tiny("mixtral")
    model.save_pretrained(folder)
    weights, ids = {}, torch.tensor([[5, 6, 7]])
    plain = model(input_ids=ids).logits
    torch.manual_seed(1)
    for layer, expert, name in product(range(2), range(4), ("w1", "w2", "w3")):
        sizes = (32, 48) if name == "w2" else (48, 32)
        a, b = torch.randn(4, sizes[1]) / 4, torch.randn(sizes[0], 4) / 4
        at = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}"
        weights |= {f"{at}.lora_A.weight": a, f"{at}.lora_B.weight": b}
        experts = model.model.layers[layer].mlp.experts
        both = experts.gate_up_proj.data[expert]
        {"w1": both[:48], "w2": experts.down_proj.data[expert], "w3": both[48:]}[name].add_(b @ a)
    facts = {"r": 4, "lora_alpha": 4, "target_modules": ["w1", "w2", "w3"]}
    where = tmp_path / "adapter"
    LoraConfig(**facts, task_type="CAUSAL_LM").save_pretrained(where)
    save_file(weights, where / "adapter_model.safetensors")
    expected = model(input_ids=ids).logits
    assert (expected - plain).abs().max() > 0.1
    merged = load_model(str(folder), dtype="float32", device="cpu", adapter=str(where))
    torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_a_merged_weight_is_rounded_once(folder, tiny, trained_lora, tmp_path, stored):
    tiny("llama").to(getattr(torch, stored)).save_pretrained(folder)
    exact = load_model(str(folder), dtype="float32", device="cpu")
    peft = trained_lora(exact, tmp_path / "adapter", size=0.01)
    ids = torch.randint(3, 101, (8, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        unmerged = float(peft(input_ids=ids, labels=ids).loss)
    expected = dict(peft.merge_and_unload().named_parameters())  # sums in float32
    options = {"device": "cpu", "adapter": str(tmp_path / "adapter")}
    merged = load_model(str(folder), dtype="bfloat16", **options)
    assert {p.dtype for p in merged.parameters()} == {torch.bfloat16}
    assert merged.model.rotary_emb.inv_freq.dtype == torch.float32  # as without an adapter
    for name, parameter in merged.named_parameters():
        assert torch.equal(parameter, expected[name].bfloat16()), name
    with torch.no_grad():  # weights rounded, sums exact: what merging cost
        loss = float(merged.float()(input_ids=ids, labels=ids).loss)
        base = load_model(str(folder), dtype="float32", device="cpu")
        change = float(base(input_ids=ids, labels=ids).loss) - unmerged
    assert abs(loss - unmerged) < 0.2 * abs(change)


def test_an_adapter_is_read_to_the_host_whatever_gpus_there_are(
    folder, trained_lora, tmp_path, monkeypatch
):
    """PEFT would read it to the first one, which may be full, or somebody else's."""
    trained_lora(load_model(str(folder), dtype="float32", device="cpu"), tmp_path / "a")
    monkeypatch.setattr("peft.peft_model.infer_device", lambda: "cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a user of the Python API would see them
        for merge in (True, False):
            load_model(str(folder), device="cpu", adapter=str(tmp_path / "a"), merge=merge)


@pytest.mark.parametrize("what", [torch.OutOfMemoryError, RuntimeError])
def test_a_model_for_which_there_is_no_memory(folder, tiny, tmp_path, monkeypatch, what):
    """While a weight is read, or put together, of which transformers tells in its own words."""
    from transformers import core_model_loading as loading

    def fail(*args, **how):
        raise what("CUDA error: out of memory")

    tiny("mixtral").save_pretrained(tmp_path / "experts")
    (tmp_path / "experts" / "tokenizer.json").write_text("{}")
    for place, function, model in (
        (loading, "_materialize_copy", folder),
        (loading.MergeModulelist, "convert", tmp_path / "experts"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(place, function, fail)
            with pytest.raises(ModelError, match="does not fit into the memory of cpu; see --quan"):
                load_model(str(model), device="cpu")


def test_an_adapter_for_which_there_is_no_memory(folder, trained_lora, tmp_path, monkeypatch):
    trained_lora(load_model(str(folder), dtype="float32", device="cpu"), tmp_path / "a")

    def fail(*args, **how):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("peft.PeftModel.from_pretrained", fail)
    with pytest.raises(ModelError, match=r"memory ran out while the adapter .* see --quantize"):
        load_model(str(folder), device="cpu", adapter=str(tmp_path / "a"))


def test_adapters_that_do_not_fit(folder, tiny, tmp_path):
    load = {"path": str(folder), "device": "cpu"}
    with pytest.raises(ModelError, match=r"has no adapter_config\.json"):
        load_model(**load, adapter=str(tmp_path))
    other = tmp_path / "other"
    attach_fresh(tiny("llama", hidden_size=64), seed=0).save_pretrained(other)
    with pytest.raises(ModelError, match=r"does not fit the model: size mismatch for .*shape"):
        load_model(**load, adapter=str(other))
    (other / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors"):
        load_model(**load, adapter=str(other))


def test_the_real_folders(shared):
    path = shared / "models" / "bitstories1M"
    if not path.is_dir():
        pytest.skip("needs the unshipped models")
    model, tokenizer = (
        load_model(str(path), dtype="float32", device="cpu"),
        load_tokenizer(str(path)),
    )
    assert tokenizer.pad_token == "<unk>"
    ids = torch.tensor(
        [tokenizer("Once upon a time, there was a little girl named Lily.").input_ids]
    )
    with torch.no_grad():
        assert float(model(input_ids=ids, labels=ids).loss) < 3  # it was trained on such stories
