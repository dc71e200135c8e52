"""Write a LoRA adapter so that equal runs write equal bytes, and move it to its place."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from staff.errors import RunError
from staff.hashing import hash_file

STAMP = "staff.json"  # what the adapter was made from
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
    from safetensors.torch import save

    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    # Not by `save_file`: since safetensors 0.8 nobody but its owner can read what that writes.
    (folder / ADAPTER_FILES[0]).write_bytes(save(tensors, metadata={"format": "pt"}))
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


def check_out(out: Path, *, overwrite: bool) -> None:
    """Raise `RunError` unless an adapter may be put at `out`; changes nothing."""
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file; give a folder for the adapter")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise RunError(
            f"{out} already holds files; choose another folder, or add --overwrite to replace "
            "the adapter in it"
        )


def checkpoints_of(out: Path) -> Path:
    """The folder of what a fine-tuning keeps until its adapter is at `out`."""
    return out.with_name(f".{out.name}.partial")


def file_hashes(adapter: Path) -> dict[str, str]:
    """SHA-256 (hex) of an adapter's files by name, for the note of what it was made from."""
    return {name: hash_file(adapter / name) for name in ADAPTER_FILES}


def has_files(adapter: Path, known: Any) -> bool:
    """Whether an adapter's files are there, and are those that `file_hashes` was told of."""
    try:
        return bool(known == file_hashes(adapter))
    except OSError:
        return False


def place_adapter(finished: Path, out: Path) -> None:
    """Move a finished adapter folder to `out`, in place of the adapter there if there is one.

    Every other file in `out` stays. The config goes first and comes last, and then the note of what
    the adapter was made from: a folder in which this was interrupted is no adapter, rather than
    half of two.
    """
    if not out.exists():
        finished.rename(out)
        return
    for name in (STAMP, "adapter_config.json"):
        (out / name).unlink(missing_ok=True)
    for name in sorted(ADAPTER_FILES, key=lambda name: name == "adapter_config.json"):
        (finished / name).replace(out / name)
    if (finished / STAMP).is_file():
        (finished / STAMP).replace(out / STAMP)
