"""Fine-tune a model with TRL on a coreset: python train.py

Settings are in train.yaml beside this file, and every one of them can be given here as well:
python train.py --learning_rate 2e-4 --num_train_epochs 1. On several GPUs:
accelerate launch train.py.
"""

import os
import sys
import warnings
from pathlib import Path
from typing import Any

from transformers.utils import is_torch_bf16_gpu_available
from trl import (
    DatasetMixtureConfig,
    ModelConfig,
    SFTConfig,
    SFTTrainer,
    TrlParser,
    get_dataset,
    get_peft_config,
    get_quantization_config,
)

HERE = Path(__file__).resolve().parent


def prepare(arguments: list[str]) -> SFTTrainer:
    """A trainer with the rows in it, by train.yaml and what the command line says over it."""
    os.chdir(HERE)  # paths in train.yaml are relative to it
    # TRL and PEFT still use names that transformers has renamed; no setting changes that.
    warnings.filterwarnings(
        "ignore", message="`(is_)?gradient_checkpointing` is deprecated", category=FutureWarning
    )
    if not is_torch_bf16_gpu_available() and not any(a.startswith("--bf16") for a in arguments):
        arguments = [*arguments, "--bf16", "false"]
    if "--config" not in arguments:
        arguments = ["--config", "train.yaml", *arguments]
    kinds: Any = [SFTConfig, ModelConfig, DatasetMixtureConfig]
    parser = TrlParser(kinds)
    training, model, mixture = parser.parse_args_and_config(arguments)
    rows: Any = get_dataset(mixture)["train"]
    if model.dtype == "auto" and not is_torch_bf16_gpu_available():
        model.dtype = "float32"  # bfloat16 weights would be many times slower on most CPUs
    elif model.dtype == "auto" and model.load_in_4bit:  # products need a dtype of their own
        model.dtype = "bfloat16"
    # A setting of the trainer's; in earlier TRL (0.28) of the model's, and left to scripts.
    trusted = {"trust_remote_code": True} if getattr(model, "trust_remote_code", False) else {}
    quantized = get_quantization_config(model)  # a BitsAndBytesConfig, of load_in_4bit or 8bit
    training.model_init_kwargs = {
        "revision": model.model_revision,
        "dtype": model.dtype,
        "attn_implementation": model.attn_implementation,
        **trusted,
        **({"quantization_config": quantized} if quantized else {}),
        **(training.model_init_kwargs or {}),
    }
    trainer = SFTTrainer(
        model=model.model_name_or_path,
        args=training,
        train_dataset=rows,
        peft_config=get_peft_config(model),
    )
    # TRL leaves out rows whose answer lies wholly beyond max_length, and does not say so.
    kept: Any = trainer.train_dataset
    if len(kept) != len(rows) and not training.packing:
        sys.exit(
            f"no answer is left within max_length {training.max_length} in "
            f"{len(rows) - len(kept)} of {len(rows)} rows: raise it in train.yaml, or take them out"
        )
    return trainer


def main(arguments: list[str]) -> None:
    """Train, and leave the adapter in `output_dir`, by default the folder tuned."""
    trainer = prepare(arguments)
    trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    trainer.save_model(trainer.args.output_dir)


if __name__ == "__main__":
    main(sys.argv[1:])
