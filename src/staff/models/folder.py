"""What can be checked in a model folder without importing torch."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from staff.errors import DiskFullError, ModelError, is_disk_full, nearest
from staff.hashing import hash_file
from staff.models.trust import NO_TRUST, Trust, check_kernels, check_own_code, code_files
from staff.models.weights import WEIGHTS, is_pickled, weight_files

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
PICKLED_WANTED = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w./-]+)?")
WANTED = ["*.json", "*.model", "*.txt", "*.tiktoken", "*.jinja"]
LENGTHS = ("max_position_embeddings", "n_positions", "seq_length")  # as configs name the context
# The same weights a second time, as their makers' own code wants them.
UNWANTED = ["consolidated*", "original/*", "onnx/*"]


def check_model_folder(path: str, *, weights: bool = True, trust: Trust = NO_TRUST) -> None:
    """Check that `path` is a folder with a causal LM, its tokenizer and safetensors weights.

    weights: whether they have to be there.

    What looks like a Hub id (``org/name`` or ``org/name@revision``) and is no local path
    passes unchecked. Raises ModelError saying what is missing.
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
    check_kernels(folder, config)
    if trust.code:
        check_own_code(folder)
    if weights:
        _check_weights(folder, config, trust)
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise ModelError(
            f"{path} has no tokenizer (tokenizer.json or tokenizer.model); "
            "copy the tokenizer files of the model into it"
        )


def check_adapter(adapter: str, *, trust: Trust = NO_TRUST) -> None:
    """Raise `ModelError` if this is no local folder of a LoRA adapter that may be opened."""
    folder = Path(adapter)
    if folder.is_file():
        raise ModelError(f"adapter {adapter} is a file: give the folder that contains it")
    if not folder.is_dir():
        raise ModelError(
            f"adapter {adapter} does not exist here: give the folder of a LoRA adapter "
            "(one from the Hub must be downloaded first)"
        )
    safe = (folder / "adapter_model.safetensors").is_file()
    if not safe and (folder / "adapter_model.bin").is_file() and not trust.pickle:
        raise ModelError(
            f"adapter {adapter} has pickled weights only (adapter_model.bin), which can run code "
            "when opened; convert them to safetensors, or add --allow-pickle"
        )
    if fault := adapter_fault(folder):
        raise ModelError(f"adapter {adapter} {fault}")


def local_folder(path: str, *, weights: bool = True, trust: Trust = NO_TRUST) -> Path:
    """The checked local folder of a model: `path` itself, or a Hub id's downloaded snapshot.

    weights: whether they are needed as well; a folder may lack them, and a Hub model is fetched
        without them, if not.
    trust: what is fetched and allowed beyond safetensors and configs.
    """
    check_model_folder(path, weights=weights, trust=trust)
    return Path(path) if Path(path).is_dir() else _snapshot(path, weights, trust)


@cache  # one revision a process, whatever is uploaded meanwhile
def _snapshot(name: str, weights: bool, trust: Trust) -> Path:
    repository, _, revision = name.partition("@")
    wanted = [*WANTED, *([WEIGHTS] if weights else []), *(["*.py"] if trust.code else [])]
    found = _download(name, repository, revision or None, wanted)
    if weights and trust.pickle and not weight_files(found):
        # The same commit, whatever was uploaded meanwhile.
        found = _download(name, repository, found.name, [*wanted, *PICKLED_WANTED])
    check_model_folder(str(found), weights=weights, trust=trust)
    return found


def _download(name: str, repository: str, revision: str | None, wanted: list[str]) -> Path:
    """The snapshot of a Hub model, with the files of these patterns."""
    from huggingface_hub import is_offline_mode, snapshot_download
    from huggingface_hub.errors import GatedRepoError

    try:
        found = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=wanted,
            ignore_patterns=UNWANTED,
            local_files_only=is_offline_mode(),  # some releases list a commit's files all the same
        )
    except GatedRepoError as error:
        raise ModelError(
            f"{repository} is gated: accept its licence on its page on the Hub, and log in "
            "(hf auth login)"
        ) from error
    except Exception as error:  # the Hub's own errors are many, and none is ours
        if is_disk_full(error):
            raise DiskFullError(getattr(error, "filename", None)) from error
        near = nearest(Path(name))
        meant = f"did you mean the local {near}? If not, " if near else ""
        way = "check the name, or unset HF_HUB_OFFLINE" if is_offline_mode() else ""
        raise ModelError(
            f"{name} is neither a local folder nor a model that could be downloaded from the Hub "
            f"({type(error).__name__}); {meant}{way or 'check the name and the connection'}"
        ) from error
    return Path(found)


def revision_of(path: str, *, trust: Trust = NO_TRUST) -> str | None:
    """The commit of a Hub model's snapshot; None for a folder of the user's own."""
    return None if Path(path).is_dir() else local_folder(path, trust=trust).name


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json; ModelError when it is missing or broken."""
    file = folder / "config.json"
    if not file.exists():
        if (folder / "adapter_config.json").exists():
            raise ModelError(
                f"{folder} is a LoRA adapter, not a model; give its base model, and this folder "
                "with --adapter if the command takes one for that model; else merge the two"
            )
        raise ModelError(f"{folder} has no config.json; it is not a Hugging Face model folder")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ModelError(f"{file} cannot be read as JSON ({error}); fetch it again") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelError(f"{file} names no model_type; it is not a Hugging Face model's config")
    for name, right in _wrong_types(config):
        raise ModelError(f"{file}: {name} must be {right}; fetch it again")
    return config


def context_of(folder: Path) -> int | None:
    """Longest input of a model in tokens, by its folder; None where its config names none."""
    config = read_config(folder)
    config = config.get("text_config") or config
    return next((int(x) for x in map(config.get, LENGTHS) if x), None)


def _wrong_types(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys that are read here, and are of another type than they should be, with the right one."""
    named = config.get("architectures")
    if named is not None and not (
        isinstance(named, list) and all(isinstance(n, str) for n in named)
    ):
        yield "architectures", "a list of names"
    if not isinstance(config["model_type"], str):
        yield "model_type", "a name"
    inner = config.get("text_config")
    if inner is not None and not isinstance(inner, dict):
        yield "text_config", "an object"
    for part in (config, inner if isinstance(inner, dict) else {}):
        for name in ("vocab_size", *LENGTHS):
            if part.get(name) is not None and type(part[name]) is not int:
                yield name, "a whole number"


def adapter_fault(folder: Path) -> str | None:
    """What is wrong with a folder as that of a LoRA adapter, by its two files; None: nothing.

    The tensors' names and sizes are held against the model's when it is put on one.
    """
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    pickled = not weights.is_file() and (folder / "adapter_model.bin").is_file()
    for file in (config,) if pickled else (config, weights):
        if not file.is_file():
            return f"has no {file.name}: give the folder of a LoRA adapter"
    try:
        facts = json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        return f"has an adapter_config.json that is not JSON ({error}): fetch it again"
    if not isinstance(facts, dict) or facts.get("peft_type") != "LORA":
        kind = facts.get("peft_type") if isinstance(facts, dict) else None
        return f"is of kind {kind or 'none'}, not LORA: give a LoRA adapter"
    if type(facts.get("r")) is not int or facts["r"] < 1:
        return "has an adapter_config.json without its rank, r: fetch it again"
    if pickled:
        return None  # torch alone can say more
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, "np"):
            return None
    except (SafetensorError, OSError) as error:
        return (
            f"has an adapter_model.safetensors that is incomplete or damaged ({error}): fetch it "
            "again"
        )


def model_hash(path: str, adapter: str | None = None, *, trust: Trust = NO_TRUST) -> str:
    """SHA-256 (hex) of a model's configuration and weights, and of an adapter's.

    Where the folders are, and what they are called, does not enter; the model's own code does
    if it may be run.
    """
    return model_hashes(path, adapter, trust=trust)[-1]


def model_hashes(
    path: str,
    adapter: str | None = None,
    *,
    trust: Trust = NO_TRUST,
    read: Callable[[int], None] = lambda _: None,
) -> list[str]:
    """`model_hash` of the model, and with an adapter that of both; the model is read once.

    `read` is told of every whole MB of weights that was read.
    """
    done, found = 0, []
    digest = hashlib.sha256()
    model = local_folder(path, trust=trust)
    for file in code_files(model) if trust.code else []:
        digest.update(f"{file.relative_to(model)}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    for folder in [model, *([Path(adapter)] if adapter else [])]:
        for name in ("config.json", "adapter_config.json"):
            if (folder / name).exists():
                text = json.dumps(_without_paths(folder / name), sort_keys=True)
                digest.update(text.encode())
        for file in weight_files(folder):
            if not file.is_file():
                raise ModelError(f"{folder} lacks {file.name}; fetch the model again")
            with file.open("rb") as content:
                while piece := content.read(1 << 22):
                    digest.update(piece)
                    read((done + len(piece) >> 20) - (done >> 20))
                    done += len(piece)
        digest.update(b"\0end of folder")
        found.append(digest.hexdigest())
    return found


def generation_hash(path: str, *, trust: Trust = NO_TRUST) -> str | None:
    """SHA-256 (hex) of a model's generation_config.json, which names its end tokens; None: none.

    `model_hash` leaves it out: answers depend on it, scores and losses do not.
    """
    file = local_folder(path, trust=trust) / "generation_config.json"
    return hash_file(file) if file.is_file() else None


def not_loaded_as_causal(error: Exception, path: str, folder: Path) -> ModelError | None:
    """The refusal of a kind that transformers has no causal language model of; None: another."""
    if "AutoModelForCausalLM" not in str(error):
        return None
    kind = read_config(folder)["model_type"]
    return ModelError(
        f"{path} is a model of kind {kind}, which transformers does not load as a causal language "
        "model (most of those that read images are not): give one for text alone"
    )


def first_line(error: Exception) -> str:
    """The first line that says something: torch heads its lists with a line ending in a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.endswith(":")] or lines
    return told[0] if told else type(error).__name__


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


def _check_weights(folder: Path, config: dict[str, Any], trust: Trust) -> None:
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} contains both a model and a LoRA adapter: move the adapter to a folder of "
            "its own, and give that with --adapter if the command takes one for that model"
        )
    if "transformers_weights" in config:
        raise ModelError(
            f"{folder / 'config.json'} names its own weight file (transformers_weights); rename "
            "the file to model.safetensors and remove that line"
        )
    found = weight_files(folder)
    if found and (trust.pickle or not is_pickled(found[0])):
        return
    pickled = sorted(file.name for pattern in PICKLED for file in folder.glob(pattern))
    if found:
        raise ModelError(
            f"{folder} has pickled weights only ({found[0].name}), which can run code when opened; "
            "convert them to safetensors, or add --allow-pickle"
        )
    if pickled:
        raise ModelError(
            f"{folder} has pickled weights only ({pickled[0]}), which can run code when opened; "
            "convert them to safetensors"
        )
    raise ModelError(f"{folder} has no weights (*.safetensors); fetch the model again")
