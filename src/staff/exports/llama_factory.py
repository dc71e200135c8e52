"""LLaMA-Factory: Alpaca or ShareGPT rows, their entry in dataset_info.json, and a YAML.

Formats: https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md (Apache-2.0), held
against version 0.9.5.
"""

import json
from collections.abc import Mapping
from typing import Any

from staff.data.writers import json_text
from staff.errors import BadRow
from staff.exports import snippets
from staff.exports.trainer import Job, Kind, Model, Trainer, given_columns, turns, within
from staff.hashing import fingerprint
from staff.types import Example

CUTOFF = 2048  # its own default, where lengths are not known
FUNCTION = "function"  # the role of a call of tools
ASKS, ANSWERS = ("user", "tool"), ("assistant", FUNCTION)
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
            "function_tag": FUNCTION,
            "system_tag": "system",
        },
    },
}
# Its names for chat templates that hold the text on the left. Off a tokenizer it reads those
# wrongly: Llama 3.1's header goes before every turn, of what DeepSeek-R1's distillations are to
# learn nothing is left but the end, and the others stop it.
TEMPLATES = {
    "<|start_header_id|>": "llama3",
    "<start_of_turn>": "gemma",
    "<<SYS>>": "llama2",
    "[INST] ": "mistral",
    "<｜Assistant｜><think>": "deepseekr1",
}
OF_KINDS = {"gemma3": "gemma3", "gemma3n": "gemma3n"}  # of those that read images as well
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
    messages = [_turn(message, number) for number, message in enumerate(turns(example), 1)]
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
    return {"messages": messages, "tools": _tools(example)}


def _turn(message: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Role and content alone: a call of tools is the text of JSON, of a role of its own."""
    if more := message.keys() - {"role", "content", "name", "tool_call_id", "tool_calls"}:
        raise BadRow(f"message {number} has {min(more)}, which LLaMA-Factory has no place for")
    if "tool_calls" not in message:
        return {"role": message["role"], "content": message["content"]}
    if message["content"].strip():
        raise BadRow(
            f"message {number} has words beside a call of tools, which LLaMA-Factory leaves out"
        )
    called = [call["function"] for call in message["tool_calls"]]
    calls = [{"name": one["name"], "arguments": one.get("arguments") or {}} for one in called]
    return {"role": FUNCTION, "content": json_text(calls)}


def _tools(example: Example) -> str | None:
    """The tools on offer as the text of JSON; `BadRow` for what LLaMA-Factory would fail of."""
    for tool in example.given.get("tools", ()):
        function = tool.get("function", tool)
        parameters = function.get("parameters") if isinstance(function, dict) else None
        if not isinstance(parameters, dict) or "properties" not in parameters:
            raise BadRow("offers a tool without properties of its parameters")
    text: str | None = given_columns(example)["tools"]
    return text


def files(job: Job) -> Mapping[str, str]:
    """dataset_info.json with one entry, and train.yaml."""
    name = f"coreset-{job.coreset.name}"
    kind = "chat" if job.kind == "single" else job.kind
    entry = {name: {"file_name": job.data, **ENTRIES[kind]}}
    if job.given:
        columns = {**ENTRIES[kind]["columns"], **{column: column for column in job.given}}
        entry[name]["columns"] = columns
    template = _template(job.model, kind)
    remarks = []
    if template == "default":
        remarks = ["template: for an instruct model take its own, e.g. llama3, qwen, gemma."]
    elif template is None:
        remarks = [
            "Without `template:` the tokenizer's own chat template is taken, which goes wrong for",
            "some: look at the first row that LLaMA-Factory prints.",
        ]
    settings = {
        "model_name_or_path": job.model.name,
        "model_revision": job.model.revision,
        "stage": "pt" if kind == "text" else "sft",
        "do_train": True,
        **QUANTISED.get(job.bits or 0, {}),
        "finetuning_type": "lora",
        "lora_rank": snippets.RANK,
        "lora_alpha": snippets.ALPHA,
        "lora_target": ",".join(snippets.LAYERS.get(job.model.kind or "", ["all"])),
        "dataset_dir": ".",
        "dataset": name,
        "template": template,
        "cutoff_len": job.length or CUTOFF,
        "packing": False,
        # It goes on from checkpoints that it finds there: none of other rows or another model.
        "output_dir": f"tuned-{_mark(job)}",
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


def _mark(job: Job) -> str:
    return fingerprint([job.coreset.sha256, job.model.name, job.model.revision])[:8]


def _template(model: Model, kind: str) -> str | None:
    """Its name for the template to be put around rows; None: what it reads off the tokenizer."""
    if kind == "text":
        return "empty"  # reads no other
    if model.template is None:  # not known; a run of conversations had one
        return "default" if kind == "pair" else None
    if not model.template:  # it would write turns one after another, and no end
        return "default"
    found = next((name for held, name in TEMPLATES.items() if held in model.template), None)
    return OF_KINDS.get(model.kind or "", found) if found == "gemma" else found


LLAMA_FACTORY = Trainer(
    shape=shape,
    files=files,
    command=within("llamafactory-cli train train.yaml"),
    taken=frozenset({"prompt", "response", "messages", "text"}),
    gives=frozenset({"tools"}),
    wraps=True,
    note="LLaMA-Factory would skip them, with no more than a line in its log.",
)
