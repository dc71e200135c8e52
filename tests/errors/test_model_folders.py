"""Model folders that hold no causal LM that can be loaded."""

import json
import shutil
from pathlib import Path

import pytest

GROUP = "Model folders"
FAMILY = Path(__file__).parents[2] / "src" / "staff" / "assets" / "family"
SELECT = "staff select train.jsonl --small model --target target --keep 0.5 --skip-finetune --out out"
SCORE = "staff score train.jsonl --model model --out out"


def copy(**changes):
    """The small model with changes: a file's new contents, or None where it goes."""

    def make(path):
        shutil.copytree(FAMILY / "small", path)
        for name, content in changes.items():
            file = path / name.replace("__", ".")
            if content is None:
                file.unlink()
            elif isinstance(content, str):
                file.write_text(content, encoding="utf-8")
            else:
                content(file)

    return {"model": make}


def config(**values):
    """config.json with other values."""

    def change(file):
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-1000])


def tensors(change):
    """model.safetensors after a change of its tensors."""

    def rewrite(file):
        from safetensors.torch import load_file, save_file

        found = load_file(file)
        change(found)
        save_file(found, file, metadata={"format": "pt"})

    return rewrite


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
    ("a path that is not there", {}, SELECT.replace("model ", "./model "), 0, "?"),
    ("a file", {"model": "x"}, SELECT, 0, "?"),
    ("an empty folder", {"model": Path.mkdir}, SELECT, 0, "?"),
    ("a model that is neither here nor on the Hub", {}, SELECT.replace("model ", "owner/name "), 0, "?"),
    ("an adapter", only(adapter_config__json="{}"), SELECT, 0, "?"),
    ("a config.json that is not JSON", only(config__json="{"), SELECT, 0, "?"),
    ("a config.json that is a list", only(config__json="[]"), SELECT, 0, "?"),
    ("a config.json in Latin-1", {"model/config.json": b'{"model_type": "\xe9"}'}, SELECT, 0, "?"),
    ("a config.json that names no kind of model", only(config__json='{"hidden_size": 8}'), SELECT, 0, "?"),
    ("an encoder and decoder", only(config__json='{"model_type": "t5", "is_encoder_decoder": true}'), SELECT, 0, "?"),
    ("an encoder", only(config__json='{"model_type": "bert", "architectures": ["BertForMaskedLM"]}'), SELECT, 0, "?"),
    ("architectures that are a number", only(config__json='{"model_type": "llama", "architectures": 5}'), SELECT, 0, "?"),
    ("no weights", only(config__json=CAUSAL), SELECT, 0, "?"),
    ("pickled weights only", only(config__json=CAUSAL, pytorch_model__bin="x"), SELECT, 0, "?"),
    ("no tokenizer", only(config__json=CAUSAL, model__safetensors="x"), SELECT, 0, "?"),
    ("a tokenizer that is not JSON", copy(tokenizer__json="{"), SELECT, 0, "?"),
    ("a tokenizer of a larger model", copy(config__json=config(vocab_size=LARGER)), SELECT, 0, "?"),
    ("weights cut short", copy(model__safetensors=cut_short), SELECT, 0, "?"),
    ("weights that are text", copy(model__safetensors="hello"), SELECT, 0, "?"),
    ("weights without a layer", copy(model__safetensors=tensors(without_a_layer)), SELECT, 0, "?"),
    ("weights of another size", copy(config__json=config(hidden_size=64)), SCORE, 0, "?"),
    ("an index that is not JSON", copy(**{"model__safetensors__index__json": "{"}), SELECT, 0, "?"),
    ("an index that names a file that is not there", copy(**{"model__safetensors__index__json": '{"weight_map": {"a": "b.safetensors"}}'}), SELECT, 0, "?"),
    ("a kind of model that is not known", copy(config__json=config(model_type="llama99")), SELECT, 0, "?"),
    ("layers that are text", copy(config__json=config(num_hidden_layers="two")), SELECT, 0, "?"),
    ("a context length that is text", copy(config__json=config(max_position_embeddings="long")), SELECT, 0, "?"),
    ("a text_config that is a list", copy(config__json=config(text_config=[1])), SELECT, 0, "?"),
    ("a vocabulary size that is text", copy(config__json=config(vocab_size="many")), SELECT, 0, "?"),
    ("weights that are not finite", copy(model__safetensors=tensors(not_finite)), SCORE, 0, "?"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_it_is_refused(case, refused):
    refused(case)
