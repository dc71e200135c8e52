"""Model folders that hold no causal LM that can be loaded."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
from changes import apply, tensors
from packaging.version import Version

GROUP = "Model folders"
FAMILY = Path(__file__).parents[2] / "src" / "staff" / "assets" / "family"
SELECT = (
    "staff select train.jsonl --small model --target target --keep 0.5 --skip-finetune --out out"
)
SCORE = "staff score train.jsonl --model model --out out"


def copy(**changes):
    """The small model with changes: a file's new contents, or None where it goes."""

    def make(path):
        shutil.copytree(FAMILY / "small", path)
        apply(path, changes)

    return {"model": make}


def config(**values):
    """config.json with other values."""

    def change(file):
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-1000])


def without_a_layer(found):
    for name in [name for name in found if ".layers.1." in name]:
        del found[name]


def not_finite(found):
    for tensor in found.values():
        tensor[:] = float("nan")


def only(**files):
    return {f"model/{name.replace('__', '.')}": text for name, text in files.items()}


CAUSAL = json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
LARGER = json.loads((FAMILY / "small" / "config.json").read_text())["vocab_size"] // 2

CASES = [
    ("a path that does not exist", {}, SELECT.replace("model ", "./model "), 4, 'model folder ./model does not exist; give a folder with config.json, tokenizer and safetensors weights, or a Hub id'),
    ("a file", {"model": "x"}, SELECT, 4, 'model folder model is a file, not a folder; give a folder with config.json, tokenizer and safetensors weights, or a Hub id'),
    ("an empty folder", {"model": Path.mkdir}, SELECT, 4, 'model has no config.json; it is not a Hugging Face model folder'),
    ("a model that is neither here nor on the Hub", {}, SELECT.replace("model ", "owner/name "), 4, 'owner/name is neither a local folder nor a model that could be downloaded from the Hub (LocalEntryNotFoundError); check the name, or unset HF_HUB_OFFLINE'),
    ("a mistyped folder", {"model": Path.mkdir}, SELECT.replace("model ", "modle "), 4, 'modle is neither a local folder nor a model that could be downloaded from the Hub (LocalEntryNotFoundError); did you mean the local model? If not, check the name, or unset HF_HUB_OFFLINE'),
    ("an adapter", only(adapter_config__json="{}"), SELECT, 4, 'model is a LoRA adapter, not a model; give its base model, and this folder with --adapter if the command takes one for that model; else merge the two'),
    ("a config.json that is not JSON", only(config__json="{"), SELECT, 4, 'model/config.json cannot be read as JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)); fetch it again'),
    ("a config.json that is a list", only(config__json="[]"), SELECT, 4, "model/config.json names no model_type; it is not a Hugging Face model's config"),
    ("a config.json in Latin-1", {"model/config.json": b'{"model_type": "\xe9"}'}, SELECT, 4, "model/config.json cannot be read as JSON ('utf-8' codec can't decode byte 0xe9 in position 16: invalid continuation byte); fetch it again"),
    ("a config.json that names no kind of model", only(config__json='{"hidden_size": 8}'), SELECT, 4, "model/config.json names no model_type; it is not a Hugging Face model's config"),
    ("an encoder and decoder", only(config__json='{"model_type": "t5", "is_encoder_decoder": true}'), SELECT, 4, 'model holds t5, not a causal language model; give a decoder LM'),
    ("an encoder", only(config__json='{"model_type": "bert", "architectures": ["BertForMaskedLM"]}'), SELECT, 4, 'model holds BertForMaskedLM, not a causal language model; give a decoder LM'),
    ("architectures that are a number", only(config__json='{"model_type": "llama", "architectures": 5}'), SELECT, 4, 'model/config.json: architectures must be a list of names; fetch it again'),
    ("an attention kernel on the Hub", only(config__json='{"model_type": "llama", "attn_implementation": "somebody/kernel"}'), SELECT, 4, 'model/config.json names an attention kernel on the Hub (somebody/kernel), whose code is not run: remove that line'),
    ("no weights", only(config__json=CAUSAL), SELECT, 4, 'model has no weights (*.safetensors); fetch the model again'),
    ("pickled weights only", only(config__json=CAUSAL, pytorch_model__bin="x"), SELECT, 4, 'model has pickled weights only (pytorch_model.bin), which can run code when opened; convert them to safetensors, or add --allow-pickle'),
    ("no tokenizer", only(config__json=CAUSAL, model__safetensors="x"), SELECT, 4, 'model has no tokenizer (tokenizer.json or tokenizer.model); copy the tokenizer files of the model into it'),
    ("a tokenizer that is not JSON", copy(tokenizer__json="{"), SELECT, 4, 'the tokenizer in model cannot be loaded: Expecting property name enclosed in double quotes: line 1 column 2 (char 1); fetch it again'),
    ("a tokenizer of a larger model", copy(config__json=config(vocab_size=LARGER)), SELECT, 4, 'the tokenizer in model has token ids up to 4095, but the model embeds only 2048; it belongs to another model'),
    ("weights cut short", copy(model__safetensors=cut_short), SELECT, 4, 'model/model.safetensors cannot be read (Error while deserializing header: incomplete metadata, file not fully covered); fetch the model again'),
    ("weights that are text", copy(model__safetensors="hello"), SELECT, 4, 'model/model.safetensors cannot be read (Error while deserializing header: header too small); fetch the model again'),
    ("weights without a layer", copy(model__safetensors=tensors(without_a_layer)), SELECT, 4, 'model lacks weights that its config requires (model.layers.1.input_layernorm.weight, model.layers.1.mlp.down_proj.weight, model.layers.1.mlp.gate_proj.weight); fetch the model again'),
    ("weights of another size", copy(config__json=config(hidden_size=64)), SCORE, 4, 'model has weights whose sizes do not match its config.json; fetch both again'),
    ("an index that is not JSON", copy(**{"model__safetensors": None, "model__safetensors__index__json": "{"}), SELECT, 4, 'model/model.safetensors.index.json cannot be read; fetch the model again'),
    ("an index that names a missing file", copy(**{"model__safetensors": None, "model__safetensors__index__json": '{"weight_map": {"a": "b.safetensors"}}'}), SELECT, 4, 'model lacks b.safetensors; fetch the model again'),
    ("a model that reads images", copy(config__json=config(model_type="mistral3", architectures=["Mistral3ForConditionalGeneration"], text_config={"model_type": "mistral", "vocab_size": 4096})), SELECT, 4, 'model is a model of kind mistral3, which transformers does not load as a causal language model (most of those that read images are not): give one for text alone'),
    ("an unknown kind of model", copy(config__json=config(model_type="llama99")), SELECT, 4, 'model cannot be built from its config: The checkpoint you are trying to load has model type `llama99` but Transformers does not recognize this architecture. This could be because of an issue with the checkpoint, or because your version of Transformers is out of date.'),
    ("layers that are text", copy(config__json=config(num_hidden_layers="two")), SELECT, 4, "model cannot be built from its config: TypeError: Field 'num_hidden_layers' expected int, got str (value: 'two')"),
    ("a context length that is text", copy(config__json=config(max_position_embeddings="long")), SELECT, 4, 'model/config.json: max_position_embeddings must be a whole number; fetch it again'),
    ("a text_config that is a list", copy(config__json=config(text_config=[1])), SELECT, 4, 'model/config.json: text_config must be an object; fetch it again'),
    ("a vocabulary size that is text", copy(config__json=config(vocab_size="many")), SELECT, 4, 'model/config.json: vocab_size must be a whole number; fetch it again'),
    ("weights that are not finite", copy(model__safetensors=tensors(not_finite)), SCORE, 4, 'the scores of 8 of 8 rows are not finite: row 0 (id 86eea4c6beb2a5b1-0, 13 tokens), row 1 (id a0e255a3090ee638-0, 13 tokens), row 2 (id f38da8b7ce2d00c6-0, 13 tokens), …. Likely causes: an overflow (try --dtype float32), a model or adapter with damaged weights, or a fine-tuning that went wrong (lower its --learning-rate)'),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_it_is_refused(case, refused):
    if case[0] == "layers that are text" and Version(version("transformers")) < Version("5.4"):
        pytest.skip("transformers looks at the kinds of a config's values since 5.4")
    refused(case)
