"""Adapters that are none, or not of the model they are put on."""

import json
from pathlib import Path

import pytest

GROUP = "Adapters"
SCORE = "staff score train.jsonl --model small --adapter adapter --out out"
EVALUATE = "staff evaluate test.jsonl --model {} --adapter adapter --metrics loss --out out"
WHOLE = {"adapter": Path("adapter")}


def adapter(**changes):
    """The small model's adapter with changes: a file's new contents, or None where it goes."""

    def make(path):
        for name, content in changes.items():
            file = path.parent / "adapter" / name.replace("__", ".")
            if content is None:
                file.unlink()
            elif isinstance(content, str):
                file.write_text(content, encoding="utf-8")
            else:
                content(file)

    return WHOLE | {"changed": make}


def config(**values):
    def change(file):
        found = json.loads(file.read_text()) | values
        file.write_text(json.dumps({k: v for k, v in found.items() if v != "gone"}))

    return adapter(adapter_config__json=change)


def weights(change):
    def rewrite(file):
        from safetensors.torch import load_file, save_file

        found = load_file(file)
        change(found)
        save_file(found, file, metadata={"format": "pt"})

    return adapter(adapter_model__safetensors=rewrite)


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-100])


def halve(found):
    for name in sorted(found)[::2]:
        del found[name]


def not_finite(found):
    for tensor in found.values():
        tensor[:] = float("nan")


CASES = [
    ("a path that is not there", {}, SCORE, 0, "?"),
    ("a Hub id", {}, SCORE.replace("adapter adapter", "adapter owner/name"), 0, "?"),
    ("a file", {"adapter": "x"}, SCORE, 0, "?"),
    ("an empty folder", {"adapter": Path.mkdir}, SCORE, 0, "?"),
    ("no weights", adapter(adapter_model__safetensors=None), SCORE, 0, "?"),
    ("pickled weights only", adapter(adapter_model__safetensors=None, adapter_model__bin="x"), SCORE, 0, "?"),
    ("a config that is not JSON", adapter(adapter_config__json="{"), SCORE, 0, "?"),
    ("a config that is a list", adapter(adapter_config__json="[]"), SCORE, 0, "?"),
    ("a config without a kind", config(peft_type="gone"), SCORE, 0, "?"),
    ("a config of a kind that is not known", config(peft_type="MAGIC"), SCORE, 0, "?"),
    ("a kind that is not LoRA", {"adapter/adapter_config.json": '{"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4}', "adapter/adapter_model.safetensors": "x"}, SCORE, 0, "?"),
    ("a rank that is not its weights'", config(r=3), SCORE, 0, "?"),
    ("a rank that is text", config(r="eight"), SCORE, 0, "?"),
    ("layers that the model has not", config(target_modules=["magic_proj"]), SCORE, 0, "?"),
    ("weights cut short", adapter(adapter_model__safetensors=cut_short), SCORE, 0, "?"),
    ("weights that are text", adapter(adapter_model__safetensors="hello"), SCORE, 0, "?"),
    ("weights of half its layers", weights(halve), SCORE, 0, "?"),
    ("weights that are not finite", weights(not_finite), SCORE, 0, "?"),
    ("weights that are not finite, to evaluate", weights(not_finite), EVALUATE.format("small"), 0, "?"),
    ("an adapter of another model", WHOLE, EVALUATE.format("target"), 0, "?"),
    ("an adapter in the folder to write to", {"out/adapter": Path("adapter"), "out/config.yaml": ""}, SCORE.replace("adapter adapter", "adapter out/adapter"), 0, "?"),
    ("fine-tuning into a folder that holds files", {"out/notes.md": "mine"}, "staff finetune train.jsonl --model small --out out", 0, "?"),
    ("fine-tuning of what cannot be read, into a folder in a folder", {"a.jsonl": "oops\n{}\n"}, "staff finetune a.jsonl --model small --text-column text --out new/adapter", 0, "?"),
    ("fine-tuning into a file", {"out": "x"}, "staff finetune train.jsonl --model small --out out", 0, "?"),
    ("fine-tuning into a place inside a file", {"out": "x"}, "staff finetune train.jsonl --model small --out out/adapter", 0, "?"),
    ("a learning rate that bursts the weights", {}, "staff finetune train.jsonl --model small --out out --learning-rate 1e30 --epochs 9", 0, "?"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_it_is_refused(case, refused):
    refused(case)
