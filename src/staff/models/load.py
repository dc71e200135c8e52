"""Load models and tokenizers of the Hugging Face format: safetensors only, no foreign code."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from staff.errors import ConfigError, ModelError, unknown_name
from staff.models.folder import local_folder, model_hash, read_config

if TYPE_CHECKING:
    import torch

__all__ = [
    "choose_device",
    "choose_dtype",
    "load_model",
    "load_tokenizer",
    "local_folder",
    "model_hash",
]

DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_model(
    path: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    adapter: str | None = None,
    merge: bool = True,
) -> Any:
    """Load a causal LM in eval mode, its parameters frozen.

    dtype, device: see `choose_dtype` and `choose_device`.
    adapter: folder of a LoRA adapter; merged into the weights, or with merge=False kept beside
        them (for phi ``adapter``; the result is then a PEFT model).

    Raises ModelError when the folder is not such a model or the adapter does not fit it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    folder = local_folder(path)
    place = choose_device(device)
    with _quiet():
        try:
            model: Any
            report: dict[str, Any]
            model, report = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
                str(folder),
                dtype=choose_dtype(dtype, place),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **({} if place.type == "cpu" else {"device_map": {"": place}}),
            )
        except torch.OutOfMemoryError as error:
            raise ModelError(f"{path} does not fit into the memory of {place}") from error
        except Exception as error:  # whatever is wrong with the files, the user must see which
            raise ModelError(f"{path} cannot be loaded: {_first_line(error)}") from error
        if report["missing_keys"]:
            some = ", ".join(sorted(report["missing_keys"])[:3])
            raise ModelError(
                f"{path} lacks weights that its config asks for ({some}); fetch the model again"
            )
        if adapter is not None:
            model = _with_adapter(model, adapter, merge=merge)
    return model.eval().requires_grad_(False)


def load_tokenizer(path: str) -> Any:
    """Load a model's tokenizer; one without a pad token pads with its end, unknown or first token.

    Raises ModelError when there is none or it has tokens that the model has no embedding for.
    """
    from transformers import AutoTokenizer

    folder = local_folder(path)
    with _quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        except Exception as error:
            raise ModelError(
                f"the tokenizer in {path} cannot be loaded: {_first_line(error)}"
            ) from error
    config = read_config(folder)
    embedded = config.get("text_config", config).get("vocab_size")
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if embedded is not None and largest >= embedded:
        raise ModelError(
            f"the tokenizer in {path} has token ids up to {largest}, but the model embeds only "
            f"{embedded}; it belongs to another model"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = (
            tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
        )
    return tokenizer


def choose_device(name: str = "auto") -> "torch.device":
    """The device of that name; auto takes CUDA, then Apple's MPS, then the CPU.

    Raises ConfigError for a device that is unknown or not there.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except Exception as error:  # torch raises AssertionError, RuntimeError, … by backend
        raise ConfigError(
            f"device {name!r} is not available here; use --device cpu or auto"
        ) from error
    return device


def choose_dtype(name: str, device: "torch.device") -> "torch.dtype":
    """The torch dtype of that name; auto is bfloat16 where the device computes it, else float32."""
    import torch

    if name not in DTYPES:
        raise ConfigError(unknown_name("dtype", name, DTYPES))
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu" and _cpu_computes_bf16():
        return torch.bfloat16
    return torch.float32


def _cpu_computes_bf16() -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 (AVX512-BF16 or AMX)."""
    import torch

    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def _with_adapter(model: Any, adapter: str, *, merge: bool) -> Any:
    from peft import PeftModel

    folder = Path(adapter)
    if not (folder / "adapter_config.json").exists():
        raise ModelError(f"{adapter} is not a LoRA adapter: it has no adapter_config.json")
    if not (folder / "adapter_model.safetensors").exists():
        raise ModelError(f"{adapter} has no adapter_model.safetensors; pickled ones are not opened")
    try:
        model = PeftModel.from_pretrained(model, str(folder))
        return model.merge_and_unload() if merge else model
    except Exception as error:
        raise ModelError(
            f"the adapter {adapter} does not fit the model: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' progress bars and notices off the terminal while loading."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
