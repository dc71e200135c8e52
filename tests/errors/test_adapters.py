"""Adapters that are none, or not of the model they are put on."""

from pathlib import Path

import pytest
from changes import apply, json_values, tensors

GROUP = "Adapters"
SCORE = "staff score train.jsonl --model small --adapter adapter --out out"
EVALUATE = "staff evaluate test.jsonl --model {} --adapter adapter --metrics loss --out out"
WHOLE = {"adapter": Path("adapter")}


def adapter(**changes):
    """The small model's adapter with changes: a file's new contents, or None where it goes."""

    return WHOLE | {"changed": lambda path: apply(path.parent / "adapter", changes)}


def config(**values):
    return adapter(adapter_config__json=json_values(values))


def weights(change):
    return adapter(adapter_model__safetensors=tensors(change))


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-100])


def halve(found):
    for name in sorted(found)[::2]:
        del found[name]


def not_finite(found):
    for tensor in found.values():
        tensor[:] = float("nan")


CASES = [
    ("a path that does not exist", {}, SCORE, 4, 'adapter adapter does not exist here: give the folder of a LoRA adapter (one from the Hub must be downloaded first)'),
    ("a Hub id", {}, SCORE.replace("adapter adapter", "adapter owner/name"), 4, 'adapter owner/name does not exist here: give the folder of a LoRA adapter (one from the Hub must be downloaded first)'),
    ("a file", {"adapter": "x"}, SCORE, 4, 'adapter adapter is a file: give the folder that contains it'),
    ("an empty folder", {"adapter": Path.mkdir}, SCORE, 4, 'adapter adapter has no adapter_config.json: give the folder of a LoRA adapter'),
    ("no weights", adapter(adapter_model__safetensors=None), SCORE, 4, 'adapter adapter has no adapter_model.safetensors: give the folder of a LoRA adapter'),
    ("pickled weights only", adapter(adapter_model__safetensors=None, adapter_model__bin="x"), SCORE, 4, 'adapter adapter has pickled weights only (adapter_model.bin), which can run code when opened; convert them to safetensors, or add --allow-pickle'),
    ("a config that is not JSON", adapter(adapter_config__json="{"), SCORE, 4, 'adapter adapter has an adapter_config.json that is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)): fetch it again'),
    ("a config that is a list", adapter(adapter_config__json="[]"), SCORE, 4, 'adapter adapter is of kind none, not LORA: give a LoRA adapter'),
    ("a config without a kind", config(peft_type="gone"), SCORE, 4, 'adapter adapter is of kind none, not LORA: give a LoRA adapter'),
    ("a config of an unknown kind", config(peft_type="MAGIC"), SCORE, 4, 'adapter adapter is of kind MAGIC, not LORA: give a LoRA adapter'),
    ("a kind that is not LoRA", {"adapter/adapter_config.json": '{"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4}', "adapter/adapter_model.safetensors": "x"}, SCORE, 4, 'adapter adapter is of kind PROMPT_TUNING, not LORA: give a LoRA adapter'),
    ("a rank that differs from its weights'", config(r=3), SCORE, 4, 'the adapter adapter does not fit the model: size mismatch for base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight: copying a param with shape torch.Size([8, 128]) from checkpoint, the shape in current model is torch.Size([3, 128]).'),
    ("a rank that is text", config(r="eight"), SCORE, 4, 'adapter adapter has an adapter_config.json without its rank, r: fetch it again'),
    ("layers that the model does not have", config(target_modules=["magic_proj"]), SCORE, 4, "the adapter adapter does not fit the model: Target modules {'magic_proj'} not found in the base model. Please check the target modules and try again."),
    ("weights cut short", adapter(adapter_model__safetensors=cut_short), SCORE, 4, 'adapter adapter has an adapter_model.safetensors that is incomplete or damaged (Error while deserializing header: incomplete metadata, file not fully covered): fetch it again'),
    ("weights that are text", adapter(adapter_model__safetensors="hello"), SCORE, 4, 'adapter adapter has an adapter_model.safetensors that is incomplete or damaged (Error while deserializing header: header too small): fetch it again'),
    ("weights of half its layers", weights(halve), SCORE, 4, 'the adapter adapter lacks 21 of the weights that its config names (base_model.model.model.layers.0.mlp.down_proj.lora_A.weight); fetch it again'),
    ("weights that are not finite", weights(not_finite), SCORE, 4, 'the scores of 8 of 8 rows are not finite: row 0 (id 86eea4c6beb2a5b1-0, 13 tokens), row 1 (id a0e255a3090ee638-0, 13 tokens), row 2 (id f38da8b7ce2d00c6-0, 13 tokens), …. Likely causes: an overflow (try --dtype float32), a model or adapter with damaged weights, or a fine-tuning that went wrong (lower its --learning-rate)'),
    ("weights that are not finite, to evaluate", weights(not_finite), EVALUATE.format("small"), 4, 'the test loss of 1 of 1 items is not finite, the first of 86eea4c6beb2a5b1-0. Likely causes: an overflow (try --dtype float32), or a model or adapter with damaged weights'),
    ("an adapter of another model", WHOLE, EVALUATE.format("target"), 4, 'the adapter adapter does not fit the model: size mismatch for base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight: copying a param with shape torch.Size([8, 128]) from checkpoint, the shape in current model is torch.Size([8, 256]).'),
    ("an adapter in the folder to write to", {"out/adapter": Path("adapter"), "out/config.yaml": ""}, SCORE.replace("adapter adapter", "adapter out/adapter"), 5, 'adapter out/adapter is in the folder this run writes to, out: choose another --out'),
    ("fine-tuning into a folder that contains files", {"out/notes.md": "mine"}, "staff finetune train.jsonl --model small --out out", 5, 'out already holds files; choose another folder, or add --overwrite to replace the adapter in it'),
    ("fine-tuning on data that cannot be read, into a nested folder", {"a.jsonl": "oops\n{}\n"}, "staff finetune a.jsonl --model small --text-column text --out new/adapter", 3, 'a.jsonl: it has no columns'),
    ("fine-tuning into a file", {"out": "x"}, "staff finetune train.jsonl --model small --out out", 5, 'out is a file: --out takes a folder'),
    ("fine-tuning into a place inside a file", {"out": "x"}, "staff finetune train.jsonl --model small --out out/adapter", 5, 'out/adapter cannot be created: PATH/out is a file'),
    ("a learning rate that makes the weights overflow", {}, "staff finetune train.jsonl --model small --out out --learning-rate 1e30 --epochs 9", 1, 'the training loss became nan at step 3. Likely causes: too high a learning rate, float16 overflow (use bfloat16 or float32), or damaged weights'),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_it_is_refused(case, refused):
    refused(case)
