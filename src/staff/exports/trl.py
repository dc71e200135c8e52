"""TRL: prompt-completion or messages, a YAML of settings, and a script that trains by it.

https://huggingface.co/docs/trl/dataset_formats and https://huggingface.co/docs/trl/sft_trainer
"""

from collections.abc import Mapping
from importlib.resources import files as package_files
from typing import Any

from staff.data.columns import GIVEN
from staff.exports import snippets
from staff.exports.trainer import Job, Kind, Trainer, given_columns, turns, within
from staff.types import Example

COLUMNS = {
    "pair": ["prompt", "completion"],
    "single": ["prompt", "completion"],
    "chat": ["messages"],
    "text": ["text"],
}
# TRL makes transformers' BitsAndBytesConfig of these; in 4 bits it wants a type that is named.
QUANTISED: dict[int, dict[str, Any]] = {
    4: {
        "dtype": "bfloat16",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "use_bnb_nested_quant": True,
    },
    8: {"load_in_8bit": True},
}


def shape(example: Example, kind: Kind) -> Mapping[str, Any]:
    """A row whose text is the one that was scored: a line feed parts prompt and response."""
    if kind == "single":
        messages = turns(example)
        return {"prompt": messages[:-1], "completion": messages[-1:], **given_columns(example)}
    if kind == "chat":
        return {"messages": turns(example), **given_columns(example)}
    if kind == "text":
        return {"text": example.response}
    return {
        "prompt": example.prompt + "\n" if example.prompt else "",
        "completion": example.response,
    }


def files(job: Job) -> Mapping[str, str]:
    """train.yaml, which `trl sft --config` takes as well, and train.py."""
    pairs = job.kind in ("pair", "single")
    settings = {
        "model_name_or_path": job.model.name,
        "model_revision": job.model.revision,
        "dtype": "auto",
        **QUANTISED.get(job.bits or 0, {}),
        "datasets": [
            {
                "path": "parquet",
                "data_files": job.data,
                "split": "train",
                "columns": [*COLUMNS[job.kind], *job.given],
            }
        ],
        "output_dir": "tuned",
        "max_length": job.length,
        "completion_only_loss": True if pairs else None,
        "assistant_only_loss": True if job.kind == "chat" else None,
        "num_train_epochs": snippets.EPOCHS,
        "per_device_train_batch_size": job.rows_at_once,
        "gradient_accumulation_steps": job.steps,
        "learning_rate": snippets.LEARNING_RATE,
        "lr_scheduler_type": "cosine",
        "warmup_steps": snippets.WARMUP,
        "use_peft": True,
        "lora_r": snippets.RANK,
        "lora_alpha": snippets.ALPHA,
        "lora_dropout": 0.0,
        "lora_target_modules": "all-linear",
        "logging_steps": 10,
        "save_strategy": "epoch",
        "seed": job.coreset.seed % 2**32,
    }
    text = snippets.settings_text(settings, job)
    if job.length is None:
        text += "max_length: null\n"
    script = package_files("staff.exports").joinpath("train_trl.py").read_text(encoding="utf-8")
    return {"train.yaml": text, "train.py": script}


TRL = Trainer(
    shape=shape,
    files=files,
    command=within("python train.py"),
    taken=frozenset({"prompt", "completion", "messages", "text"}),
    splits=True,
    gives=frozenset(GIVEN),
)
