"""What can be said of a model folder without importing torch."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from staff.errors import ModelError

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.tiktoken", "*.jinja"]


def check_model_folder(path: str) -> None:
    """Check that `path` is a folder with a causal LM, its tokenizer and safetensors weights.

    What looks like a Hub id (``org/name``) and is no local path passes unchecked.
    Raises ModelError saying what is missing.
    """
    folder = Path(path)
    if not folder.is_dir():
        if _may_be_hub_id(path):
            return
        kind = "is a file, not a folder" if folder.exists() else "does not exist"
        raise ModelError(
            f"model folder {path} {kind}; give a folder with config.json, tokenizer and "
            "safetensors weights, or a Hub id"
        )
    config = read_config(folder)
    _check_causal(folder, config)
    _check_weights(folder)
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise ModelError(
            f"{path} has no tokenizer (tokenizer.json or tokenizer.model); "
            "copy the tokenizer files of the model into it"
        )


def local_folder(path: str) -> Path:
    """The checked local folder of a model: `path` itself, or a Hub id's downloaded snapshot."""
    check_model_folder(path)
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(path, allow_patterns=WANTED))
    except Exception as error:  # the Hub's own errors are many, and none is ours
        raise ModelError(
            f"{path} is neither a folder here nor a model that could be had from the Hub "
            f"({type(error).__name__}); check the name and the connection"
        ) from error
    check_model_folder(str(folder))
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json; ModelError when it is missing or broken."""
    file = folder / "config.json"
    if not file.exists():
        if (folder / "adapter_config.json").exists():
            raise ModelError(
                f"{folder} is a LoRA adapter, not a model; give its base model, and this "
                "folder with --adapter"
            )
        raise ModelError(f"{folder} has no config.json; it is not a Hugging Face model folder")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(f"{file} cannot be read as JSON ({error}); fetch it again") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelError(f"{file} names no model_type; it is not a Hugging Face model's config")
    return config


def model_hash(path: str, adapter: str | None = None) -> str:
    """SHA-256 (hex) of a model's configuration and weights, and of an adapter's.

    Where the folders are, and what they are called, does not enter.
    """
    digest = hashlib.sha256()
    folders = [local_folder(path)] + ([Path(adapter)] if adapter else [])
    for folder in folders:
        for name in ("config.json", "adapter_config.json"):
            if (folder / name).exists():
                text = json.dumps(_without_paths(folder / name), sort_keys=True)
                digest.update(text.encode())
        for file in sorted(folder.glob("*.safetensors")):
            with file.open("rb") as content:
                while piece := content.read(1 << 22):
                    digest.update(piece)
        digest.update(b"\0end of folder")
    return digest.hexdigest()


def _without_paths(file: Path) -> dict[str, Any]:
    config = json.loads(file.read_text(encoding="utf-8"))
    for name in ("_name_or_path", "base_model_name_or_path", "transformers_version", "revision"):
        config.pop(name, None)
    for name, value in config.items():
        if name in ("target_modules", "exclude_modules") and isinstance(value, list):
            config[name] = sorted(value)  # written from a set, in any order
    return config


def _may_be_hub_id(path: str) -> bool:
    parent = Path(path).parent
    beside = str(parent) != "." and parent.is_dir()  # models/typo beside models/llama
    return HUB_ID.fullmatch(path) is not None and not Path(path).exists() and not beside


def _check_causal(folder: Path, config: dict[str, Any]) -> None:
    named = config.get("architectures") or []
    causal = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in named)
    with_images = "text_config" in config and any("Conditional" in name for name in named)
    if config.get("is_encoder_decoder") or (named and not causal and not with_images):
        what = ", ".join(named) or config["model_type"]
        raise ModelError(f"{folder} holds {what}, not a causal language model; give a decoder LM")


def _check_weights(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(file.name for pattern in PICKLED for file in folder.glob(pattern))
    if pickled:
        raise ModelError(
            f"{folder} has pickled weights only ({pickled[0]}), which can run code when opened; "
            "convert them to safetensors"
        )
    raise ModelError(f"{folder} has no weights (*.safetensors); fetch the model again")
