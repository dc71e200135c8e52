"""Rows and folders of tiny models, and models that want trust: pickled weights, own code."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from staff.types import IGNORE, TokenisedExample

OWN_CODE = """
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM

Path({marker!r}).touch()


class TinyOwnConfig(LlamaConfig):
    model_type = "tiny-own"


class TinyOwnForCausalLM(LlamaForCausalLM):
    config_class = TinyOwnConfig
"""


class Payload:
    """What a pickle that runs code holds: opened by Python's own unpickler, it makes a file."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return Path.touch, (Path(self.marker),)


@pytest.fixture(scope="module")
def rows():
    generator = np.random.default_rng(0)
    found = []
    for i, length in enumerate((7, 19, 12, 23, 9)):
        ids = generator.integers(3, 101, length)
        labels = np.where(np.arange(length) < length // 2, IGNORE, ids)
        found.append(TokenisedExample(f"row-{i}", ids, labels))
    return found


@pytest.fixture
def folder(tiny, tmp_path):
    def save(family):
        where = tmp_path / family
        tiny(family).save_pretrained(where)
        (where / "tokenizer.json").write_text("{}")  # a model folder has one; nothing reads it here
        return str(where)

    return save


@pytest.fixture
def marker(tmp_path):
    """A path that is there as soon as a payload or a model's own code has run."""
    return tmp_path / "marker"


@pytest.fixture
def hostile(marker):
    """Write a pickle that runs code when opened carelessly; in torch's format or Python's."""

    def write(path, *, by_torch=True):
        content = {"model.embed_tokens.weight": torch.zeros(3), "x": Payload(marker)}
        if by_torch:
            torch.save(content, path)
        else:
            path.write_bytes(pickle.dumps(content))

    return write


@pytest.fixture
def plain_model(tiny, tmp_path):
    """A tiny model with its tokenizer: safetensors, and no code."""
    where = tmp_path / "plain"
    tiny("llama").save_pretrained(where)
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, 101)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", eos_token="</s>"
    ).save_pretrained(where)
    return where


@pytest.fixture
def pickled_model(plain_model):
    """The same model with its weights in pytorch_model.bin."""
    from safetensors.torch import load_file

    whole = plain_model / "model.safetensors"
    torch.save(load_file(whole), plain_model / "pytorch_model.bin")
    whole.unlink()
    return plain_model


@pytest.fixture
def own_code_model(plain_model, marker, tmp_path, monkeypatch):
    """The same model as a class that only a file in its folder knows."""
    from transformers import dynamic_module_utils

    modules = tmp_path / "modules"
    modules.mkdir()
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(modules))
    monkeypatch.syspath_prepend(str(modules))
    (plain_model / "modeling_tiny.py").write_text(OWN_CODE.format(marker=str(marker)))
    config = json.loads((plain_model / "config.json").read_text())
    config |= {
        "model_type": "tiny-own",
        "architectures": ["TinyOwnForCausalLM"],
        "auto_map": {
            "AutoConfig": "modeling_tiny.TinyOwnConfig",
            "AutoModelForCausalLM": "modeling_tiny.TinyOwnForCausalLM",
        },
    }
    (plain_model / "config.json").write_text(json.dumps(config))
    return plain_model.rename(tmp_path / f"own-{tmp_path.name}")
