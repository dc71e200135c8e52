"""LLaMA-Factory: Alpaca or ShareGPT rows, their entry in dataset_info.json, and a YAML.

Formats: https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md (Apache-2.0), held
against version 0.9.5.
"""

import json
from collections.abc import Mapping
from typing import Any

from staff.errors import BadRow
from staff.exports import snippets
from staff.exports.trainer import Job, Kind, Trainer, turns, within
from staff.types import Example

CUTOFF = 2048  # its own default, where lengths are not known
ASKS, ANSWERS = ("user", "tool"), ("assistant",)
ENTRIES: dict[str, dict[str, Any]] = {
    "pair": {"columns": {"prompt": "prompt", "response": "response"}},
    "text": {"columns": {"prompt": "text"}},
    "chat": {
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "observation_tag": "tool",
            "function_tag": "function",
            "system_tag": "system",
        },
    },
}
QUANTISED: dict[int, dict[str, Any]] = {
    4: {
        "quantization_bit": 4,
        "quantization_method": "bnb",
        "quantization_type": "nf4",
        "double_quantization": True,
    },
    8: {"quantization_bit": 8, "quantization_method": "bnb"},
}


def shape(example: Example, kind: Kind) -> Mapping[str, Any]:
    """A row that LLaMA-Factory takes: others it would skip with no more than a line in its log.

    Turns behind the last answer, which no loss is ever taken of, are cut: it wants an even number.
    """
    if kind == "text":
        return {"text": example.response}
    if kind == "pair":
        return {"prompt": example.prompt, "response": example.response}
    messages = turns(example)
    while messages[-1]["role"] not in ANSWERS:
        messages.pop()
    start = 1 if messages[0]["role"] == "system" else 0
    for number, message in enumerate(messages[start:]):
        if message["role"] not in (ANSWERS if number % 2 else ASKS):
            wanted = "an answer" if number % 2 else "a user or tool turn"
            raise BadRow(
                f"message {start + number + 1} is from {message['role']} where LLaMA-Factory wants "
                f"{wanted}"
            )
    return {"messages": messages}


def files(job: Job) -> Mapping[str, str]:
    """dataset_info.json with one entry, and train.yaml."""
    name = f"coreset-{job.coreset.name}"
    kind = "chat" if job.kind == "single" else job.kind
    entry = {name: {"file_name": job.data, **ENTRIES[kind]}}
    remarks = []
    template = None
    if kind == "pair" and not job.model.has_template:
        template = "default"
        remarks = ["template: for an instruct model take its own, e.g. llama3, qwen, gemma."]
    elif kind != "text":
        remarks = ["Without `template:` the tokenizer's own chat template is taken."]
    settings = {
        "model_name_or_path": job.model.name,
        "model_revision": job.model.revision,
        "stage": "pt" if kind == "text" else "sft",
        "do_train": True,
        **QUANTISED.get(job.bits or 0, {}),
        "finetuning_type": "lora",
        "lora_rank": snippets.RANK,
        "lora_alpha": snippets.ALPHA,
        "lora_target": "all",
        "dataset_dir": ".",
        "dataset": name,
        "template": template,
        "cutoff_len": job.length or CUTOFF,
        "packing": False,
        "output_dir": "tuned",
        "num_train_epochs": float(snippets.EPOCHS),
        "per_device_train_batch_size": job.rows_at_once,
        "gradient_accumulation_steps": job.steps,
        "learning_rate": snippets.LEARNING_RATE,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": snippets.WARMUP,
        "bf16": True,
        "logging_steps": 10,
        "save_strategy": "epoch",
        "seed": job.coreset.seed % 2**32,
    }
    return {
        "dataset_info.json": json.dumps(entry, indent=2) + "\n",
        "train.yaml": snippets.settings_text(settings, job, *remarks),
    }


LLAMA_FACTORY = Trainer(
    shape=shape,
    files=files,
    command=within("llamafactory-cli train train.yaml"),
    taken=frozenset({"prompt", "response", "messages", "text"}),
    note="LLaMA-Factory would skip them, with no more than a line in its log.",
)
