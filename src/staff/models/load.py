"""Load models and tokenizers in the Hugging Face format.

Weights come from safetensors, and no code of a model is run unless the user trusts it (`Trust`).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from staff.errors import ConfigError, ModelError, unknown_name
from staff.models.folder import (
    check_adapter,
    first_line,
    local_folder,
    model_hash,
    read_config,
)
from staff.models.memory import is_out_of_memory, release_memory
from staff.models.placement import Spread, device_of
from staff.models.quantised import NONE, hush, quantisation, settle
from staff.models.trust import NO_TRUST, Trust, code_not_run, needs_code
from staff.models.weights import (
    SAFETENSORS_NAMES,
    is_pickled,
    is_refused_pickle,
    not_weights,
    stored_dtypes,
    weight_files,
)

if TYPE_CHECKING:
    import torch

__all__ = [
    "caps_attention",
    "check_attention",
    "choose_device",
    "choose_dtype",
    "load_model",
    "load_tokenizer",
    "local_folder",
    "model_hash",
]

DTYPES = ("auto", "float32", "bfloat16", "float16")
FLASH = {  # attention kernels that come in a package of their own
    "flash_attention_2": "flash-attn",
    "flash_attention_3": "flash-attn-3",
    "flash_attention_4": "flash-attn-4",
}


def load_model(
    path: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    adapter: str | None = None,
    merge: bool = True,
    attention: str = "auto",
    quantize: str = NONE,
    spread: Spread | None = None,
    trust: Trust = NO_TRUST,
) -> Any:
    """Load a causal LM in eval mode, its parameters frozen.

    dtype, device: see `choose_dtype` and `choose_device`.
    attention: transformers' name of a kernel; auto: what it chooses for the model.
    adapter: folder of a LoRA adapter; added to the weights as they are stored, in float32, and
        the sum rounded to `dtype` once; or with merge=False kept beside them (for phi
        ``adapter``; the result is then a PEFT model). Weights stored in another dtype take the
        host 4 bytes a parameter meanwhile.
    quantize: none, nf4, int8 or llm-int8 (`staff.models.quantised`), of a model stored in full;
        `dtype` is then that of all else. spread: over GPUs, host memory and disk instead of one
        device. With either, and where weights are stored quantised, an adapter stays beside them: a
        sum rounded to 4 bits would lose it, and weights on a disk are only read.
    trust: whether weights may be pickled, and the model's own code run.

    Raises ModelError when the folder is not such a model or the adapter does not fit it, and
    ConfigError when the library that quantises is not installed.
    """
    import torch

    folder = local_folder(path, trust=trust)
    place = choose_device(device)
    wanted = choose_dtype(dtype, place)
    merge = merge and quantize == NONE and spread is None
    # On a GPU weights would fill the holes that an earlier model's batches left; the hooks of one
    # that was spread are in cycles with it.
    if place.type == "cuda" or spread is not None:
        release_memory()
    with _quiet():
        model = _read_model(
            path,
            folder,
            dtype=wanted,
            place=place,
            attention=attention,
            quantize=quantize,
            spread=spread,
            trust=trust,
        )
        settle(model, path, quantize)
        merge = merge and not getattr(model, "is_quantized", False)  # as it is stored
        rounds = wanted != torch.float32 and adapter is not None and merge
        if rounds and not _stored_as(folder, wanted):
            # Rounding the weights first and the sum again would cost the update twice.
            cpu = torch.device("cpu")
            exact = _read_model(path, folder, dtype=torch.float32, place=cpu, trust=trust)
            _copy_parameters(_with_adapter(exact, str(adapter), merge=True, trust=trust), model)
        elif adapter is not None:
            model = _with_adapter(model, adapter, merge=merge, trust=trust)
    return model.eval().requires_grad_(False)


def load_tokenizer(path: str, *, weights: bool = True, trust: Trust = NO_TRUST) -> Any:
    """Load a model's tokenizer; one without a pad token pads with its end, unknown or first token.

    weights: of a Hub model, whether they are to be fetched too (`local_folder`).

    Raises ModelError when there is none or it has tokens that the model has no embedding for.
    """
    from transformers import AutoTokenizer

    folder = local_folder(path, weights=weights, trust=trust)
    with _quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust.code)
        except Exception as error:
            if needs_code(error, folder, trust):
                raise code_not_run(path, folder) from error
            raise ModelError(
                f"the tokenizer in {path} cannot be loaded: {first_line(error)}; fetch it again"
            ) from error
    config = read_config(folder)
    embedded = (config.get("text_config") or config).get("vocab_size")
    largest = max(_producible(tokenizer).values(), default=-1)
    if embedded is not None and largest >= embedded:
        raise ModelError(
            f"the tokenizer in {path} has token ids up to {largest}, but the model embeds only "
            f"{embedded}; it belongs to another model"
        )
    pad = tokenizer.pad_token_id
    if pad is None or (embedded is not None and pad >= embedded):
        tokenizer.pad_token = (
            tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
        )
    return tokenizer


def choose_device(name: str = "auto") -> "torch.device":
    """The device of that name; auto takes CUDA, then Apple's MPS, then the CPU.

    Of several GPUs auto and ``cuda`` mean the current one, by its number: libraries hold a device
    without one for another than that with it.

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
    if device == torch.device("cuda"):
        # The current one is a thread's own: those that read weights would put them on the first.
        return torch.device("cuda", torch.cuda.current_device())
    return device


def choose_dtype(name: str, device: "torch.device") -> "torch.dtype":
    """The torch dtype of that name; auto is bfloat16 where the device computes it, else float32."""
    import torch

    if name not in DTYPES:
        raise ConfigError(unknown_name("dtype", name, DTYPES))
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        with torch.cuda.device(device):  # older than Ampere they only emulate it, slowly
            computes = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if computes else torch.float32
    if device.type == "cpu" and _cpu_computes_bf16():
        return torch.bfloat16
    return torch.float32


def check_attention(name: str, *, device: "torch.device", dtype: "torch.dtype") -> None:
    """Raise ConfigError for a kernel that cannot work here: device, precision, package.

    transformers itself would fetch the code of a kernel that is not installed from the Hub.
    """
    import torch

    if name not in FLASH:
        return
    if device.type != "cuda":
        raise ConfigError(f"--attention {name} needs a GPU (CUDA), not {device}; use sdpa or auto")
    if dtype not in (torch.bfloat16, torch.float16):
        raise ConfigError(f"--attention {name} does not support float32: add --dtype bfloat16")
    try:
        version(FLASH[name])
    except PackageNotFoundError:
        raise ConfigError(
            f"--attention {name} needs the package {FLASH[name]}, which is not installed; use sdpa "
            "or auto"
        ) from None


def caps_attention(config: Any) -> bool:
    """Whether a model's attention caps its logits (Gemma 2); PyTorch's own, sdpa, does not.

    transformers 5.0 to 5.20 takes sdpa for it all the same, and computes without the cap.
    """
    return getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None


def _cpu_computes_bf16() -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 (AVX512-BF16 or AMX)."""
    import torch

    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def _producible(tokenizer: Any) -> dict[str, int]:
    """The tokens that text, a chat template or the tokenizer itself can put into a row.

    Some models name a special token beyond their embedding: Gemma 3's place for an image, say,
    where only the larger sizes take images. Special tokens spelt out in the data stay text.
    """
    vocabulary = tokenizer.get_vocab()
    special = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
    own = {
        getattr(tokenizer, f"{role}_token", None) for role in ("bos", "eos", "unk", "cls", "sep")
    }
    template = str(tokenizer.chat_template or "")
    return {
        token: number
        for token, number in vocabulary.items()
        if token not in special or token in own or token in template
    }


def _read_model(
    path: str,
    folder: Path,
    *,
    dtype: "torch.dtype",
    place: "torch.device",
    attention: str = "auto",
    quantize: str = NONE,
    spread: Spread | None = None,
    trust: Trust,
) -> Any:
    """The model of a folder, complete, on its device or spread over several."""
    import torch

    hush()  # before the libraries that tell of themselves are imported
    from transformers import AutoModelForCausalLM

    how: dict[str, Any] = {} if attention == "auto" else {"attn_implementation": attention}
    if spread is not None:
        how |= spread.arguments(place)
    elif place.type != "cpu" or quantize != NONE:
        how["device_map"] = {"": place}
    if quantize != NONE:
        _refuse_quantised(path, folder, quantize)
        how["quantization_config"] = quantisation(quantize, dtype=dtype)
    try:
        if attention in ("auto", "sdpa"):
            how |= _uncapped_not_taken(folder, attention, trust)
        model: Any
        report: dict[str, Any]
        model, report = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
            str(folder),
            dtype=dtype,
            use_safetensors=not is_pickled(weight_files(folder)[0]),
            weights_only=True,  # of a pickle, too
            trust_remote_code=trust.code,
            output_loading_info=True,
            **how,
        )
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{path} does not fit into the memory of {place}; see --quantize and --device-map"
        ) from error
    except Exception as error:  # whatever is wrong with the files, the user must see which
        if needs_code(error, folder, trust):
            raise code_not_run(path, folder) from error
        if is_refused_pickle(error):
            raise not_weights(weight_files(folder)[0]) from error
        if attention != "auto" and re.search("attention|attn", str(error), re.IGNORECASE):
            raise ModelError(
                f"{path} does not support attention {attention}: {first_line(error)}; use "
                "--attention auto"
            ) from error
        if "ignore_mismatched_sizes" in str(error):
            raise ModelError(
                f"{path} has weights whose sizes do not match its config.json; fetch both again"
            ) from error
        if "dispatched on the CPU or the disk" in str(error):
            raise _too_large(path, quantize) from error
        if "offload the whole model to the disk" in str(error):
            raise _all_on_disk(path) from error
        if "offload_folder" in str(error):
            raise ModelError(
                f"weights of {path} must be written again to be read from disk when needed: give "
                "--offload-folder DIR"
            ) from error
        raise ModelError(f"{path} cannot be loaded: {first_line(error)}") from error
    if report["missing_keys"]:
        some = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelError(
            f"{path} lacks weights that its config requires ({some}); fetch the model again"
        )
    if not hasattr(model, "hf_device_map") and any(p.is_meta for p in model.parameters()):
        raise _all_on_disk(path)
    places = {str(place) for place in getattr(model, "hf_device_map", {}).values()}
    if quantize != NONE and ("disk" in places or {"cpu"} < places):  # torchao's fail when run
        raise _too_large(path, quantize)
    return model


def _uncapped_not_taken(folder: Path, attention: str, trust: Trust) -> dict[str, Any]:
    """What keeps transformers from sdpa for a model that it is wrong for; sdpa: auto or asked for.

    Raises ValueError where it was asked for.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust.code)
    if not caps_attention(config):
        return {}
    if attention == "sdpa":
        raise ValueError(f"attention of {config.model_type} caps its logits, and sdpa does not")
    return {"attn_implementation": "eager"}


def _all_on_disk(path: str) -> ModelError:
    """The refusal of a model none of which fits elsewhere, by libraries that cannot run it so."""
    return ModelError(
        f"no part of {path} fits within --max-memory, and a model that is entirely on disk needs "
        "accelerate 1.15 and transformers 5.13: raise --max-memory, or upgrade both"
    )


def _too_large(path: str, quantize: str) -> ModelError:
    """The refusal of quantised weights that would lie beside the GPUs, or on the disk."""
    return ModelError(
        f"{path} does not fit into the memory of the GPUs with --quantize {quantize}, and "
        "quantised weights cannot be placed elsewhere: raise --max-memory or leave out --quantize"
    )


def _refuse_quantised(path: str, folder: Path, quantize: str) -> None:
    """Raise `ModelError` if a model's own weights are quantised already."""
    found = read_config(folder).get("quantization_config")
    if found:
        method = found.get("quant_method") if isinstance(found, dict) else None
        raise ModelError(
            f"the weights of {path} are stored quantised ({method or 'unknown'}): leave out "
            f"--quantize {quantize}, or give the model it was made from"
        )


def _stored_as(folder: Path, dtype: "torch.dtype") -> bool:
    """Whether all weights of a folder are stored in this dtype (PEFT then adds in float32)."""
    wanted = {SAFETENSORS_NAMES[str(dtype)]}
    return all(stored_dtypes(file) == wanted for file in weight_files(folder))


def _copy_parameters(source: Any, target: Any) -> None:
    """Round every parameter of `source` into its namesake in `target`; buffers stay as they are."""
    import torch

    exact = dict(source.named_parameters(remove_duplicate=False))
    if not _is_tied(source):  # an adapter may have changed one use of a tied weight alone
        _untie(target)
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            parameter.copy_(exact[name])


def _with_adapter(model: Any, adapter: str, *, merge: bool, trust: Trust) -> Any:
    from peft import PeftModel

    folder = Path(adapter)
    check_adapter(adapter, trust=trust)
    try:
        with _placed_by_us(model) as placed:
            model = PeftModel.from_pretrained(
                model,
                str(folder),
                low_cpu_mem_usage=placed,
                torch_device="cpu",  # or they would be read to the first GPU on their way
            )
        if placed:
            _load_beside(model, folder)
        lacking = _lacking(model, folder)
        if not lacking and merge:
            _untie_adapted(model)
            return model.merge_and_unload()
        if not lacking:
            return model
    except Exception as error:
        if is_refused_pickle(error):
            raise not_weights(weight_files(folder)[0]) from error
        if is_out_of_memory(error):
            raise ModelError(
                f"memory ran out while the adapter {adapter} was loaded; see --quantize and "
                "--device-map"
            ) from error
        raise ModelError(
            f"the adapter {adapter} does not fit the model: {first_line(error)}"
        ) from error
    raise ModelError(
        f"the adapter {adapter} lacks {len(lacking)} of the weights that its config names "
        f"({lacking[0]}); fetch it again"
    )


def _is_tied(model: Any) -> bool:
    """Whether the output head's weight is the embedding's."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def _untie(model: Any) -> None:
    """Give the output head a weight of its own, if it shares the embedding's."""
    import torch

    if _is_tied(model):
        head = model.get_output_embeddings()
        head = getattr(head, "base_layer", head)
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)


def _untie_adapted(model: Any) -> None:
    """Untie a weight if one of its uses has LoRA: what is added to it is not for the other use."""
    from peft.tuners.lora import LoraLayer

    base = model.get_base_model()
    uses = (base.get_input_embeddings(), base.get_output_embeddings())
    if any(isinstance(layer, LoraLayer) for layer in uses):
        _untie(base)


@contextmanager
def _placed_by_us(model: Any) -> Iterator[bool]:
    """Whether a model is spread over devices; PEFT, which would spread it anew, is not told so.

    Its way writes offloaded base weights a second time, and fails where some lie on the disk.
    """
    places = getattr(model, "hf_device_map", {})
    if "disk" not in places.values() and len(set(places.values())) < 2:
        yield False
        return
    del model.hf_device_map
    try:
        yield True
    finally:
        model.hf_device_map = places


def _load_beside(model: Any, folder: Path) -> None:
    """Put every LoRA weight where the layer beside it computes, and read it there.

    PEFT has put those of a layer on the disk to where its weight seems to be: nowhere.
    """
    from peft.tuners.lora import LoraLayer
    from peft.utils.save_and_load import load_peft_weights, set_peft_model_state_dict

    from staff.models.adapters import lora_parameters

    for module in model.modules():
        if isinstance(module, LoraLayer):
            for layers in (module.lora_A, module.lora_B):
                layers.to_empty(device=device_of(module.get_base_layer()))
    set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
    if any(parameter.is_meta for parameter in lora_parameters(model)):  # of an embedding, say
        raise ModelError("it adapts layers that cannot be placed elsewhere: leave out --device-map")


def _lacking(model: Any, folder: Path) -> list[str]:
    """Weights of a PEFT model that its folder does not hold: PEFT would leave them as drawn."""
    from peft import get_peft_model_state_dict
    from peft.utils.save_and_load import load_peft_weights, set_peft_model_state_dict
    from safetensors import safe_open

    if not (folder / "adapter_model.safetensors").is_file():
        return []  # pickled
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as weights:
        there = set(weights.keys())
    if not set(get_peft_model_state_dict(model, save_embedding_layers=False)) - there:
        return []
    # Or it holds them by the names of transformers 4, which PEFT alone can tell.
    told: Any = set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
    return sorted(name.replace(".default", "") for name in told.missing_keys if "lora_" in name)


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
