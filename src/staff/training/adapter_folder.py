"""Write a LoRA adapter so that equal runs leave equal bytes."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json", "loss.jsonl")


def write_adapter(folder: Path, *, model: Any, base: str, losses: Iterable[Any]) -> None:
    """Write ADAPTER_FILES of a PEFT model into an existing folder.

    PEFT's own `save_pretrained` would add a model card with paths of this machine and
    list the target modules in the order of a set, which differs between processes.

    Args:
        folder: where to write; the caller renames it when it is complete.
        model: the PEFT model.
        base: what the adapter config shall call the base model.
        losses: dataclass instances, one line of loss.jsonl each.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()},
        folder / ADAPTER_FILES[0],
        metadata={"format": "pt"},
    )
    config = model.peft_config["default"].to_dict()
    config |= {"base_model_name_or_path": base, "inference_mode": True}
    config = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / ADAPTER_FILES[1]).write_text(text + "\n", encoding="utf-8")
    lines = "".join(json.dumps(asdict(point)) + "\n" for point in losses)
    (folder / ADAPTER_FILES[2]).write_text(lines, encoding="utf-8")
    for name in ADAPTER_FILES:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
