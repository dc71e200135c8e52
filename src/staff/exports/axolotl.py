"""axolotl: rows for its chat_template, completion or a custom prompt format, and a YAML.

Formats: https://docs.axolotl.ai/docs/dataset-formats/ (Apache-2.0), held against version 0.19.
"""

from collections.abc import Mapping
from typing import Any

from staff.data.records import FIELDS
from staff.exports import snippets
from staff.exports.trainer import Job, Kind, Trainer, given_columns, turns, within
from staff.types import Example

LENGTH = 2048  # where lengths are not known
# The text that was scored: a line feed parts prompt and response, and nothing else is added.
PROMPT = "{instruction}\n"
TYPES: dict[str, dict[str, Any]] = {
    "pair": {
        "type": {
            "field_instruction": "prompt",
            "field_output": "response",
            "format": PROMPT,
            "no_input_format": PROMPT,
        }
    },
    "chat": {
        "type": "chat_template",
        "field_messages": "messages",
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
    },
    "text": {"type": "completion", "field": "text"},
}
# Of other fields it would keep only those that it finds in the text of a template.
FIELDS_OF = {name: name for name in ("role", "content", *FIELDS)}
# Of 4 bits it takes nf4 with scales in 8 bits, as the run did, unless it is told otherwise.
QUANTISED: dict[int, dict[str, Any]] = {
    4: {"adapter": "qlora", "load_in_4bit": True},
    8: {"adapter": "lora", "load_in_8bit": True},
}


def shape(example: Example, kind: Kind) -> Mapping[str, Any]:
    """A row with the columns that TYPES names."""
    if kind == "text":
        return {"text": example.response}
    if kind == "pair":
        return {"prompt": example.prompt, "response": example.response}
    return {"messages": turns(example), "tools": given_columns(example)["tools"]}


def files(job: Job) -> Mapping[str, str]:
    """train.yaml."""
    kind = "chat" if job.kind == "single" else job.kind
    reading = TYPES[kind] | ({"message_property_mappings": FIELDS_OF} if job.rich else {})
    named = snippets.LAYERS.get(job.model.kind or "")
    settings = {
        "base_model": job.model.name,
        "revision_of_model": job.model.revision,
        "datasets": [{"path": job.data, "ds_type": "parquet", "split": "train", **reading}],
        # Without it the end of a turn is not learnt where it is no end of sequence.
        "eot_tokens": [job.model.turn_end] if kind == "chat" and job.model.turn_end else None,
        # Its cache goes by names, not contents: another coreset of this name must not meet it.
        "dataset_prepared_path": f"prepared-{job.coreset.sha256[:8]}",
        "output_dir": "tuned",
        "sequence_len": job.length or LENGTH,
        "excess_length_strategy": "truncate",
        "sample_packing": False,
        "train_on_inputs": False,
        **QUANTISED.get(job.bits or 0, {"adapter": "lora"}),
        "lora_r": snippets.RANK,
        "lora_alpha": snippets.ALPHA,
        "lora_dropout": 0.0,
        "lora_target_linear": None if named else True,
        "lora_target_modules": named and list(named),
        "num_epochs": snippets.EPOCHS,
        "micro_batch_size": job.rows_at_once,
        "gradient_accumulation_steps": job.steps,
        "optimizer": "adamw_torch",
        "learning_rate": snippets.LEARNING_RATE,
        "lr_scheduler": "cosine",
        "warmup_ratio": snippets.WARMUP,
        "bf16": "auto",
        "gradient_checkpointing": True,
        "logging_steps": 10,
        "saves_per_epoch": 1,
        "seed": job.coreset.seed % 2**32,
    }
    return {"train.yaml": snippets.settings_text(settings, job)}


AXOLOTL = Trainer(
    shape=shape,
    gives=frozenset({"tools"}),
    files=files,
    command=within("axolotl train train.yaml"),
    # Columns that its strategies look for by these names, whatever the YAML says.
    taken=frozenset(
        {
            *("prompt", "response", "messages", "text"),
            *("system", "instruction", "input", "output", "tools", "images", "reasoning_content"),
            *("input_ids", "attention_mask", "labels", "length", "position_ids"),
        }
    ),
)
