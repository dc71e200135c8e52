"""Load models and tokenizers in the Hugging Face format.

Weights come from safetensors, and no code of a model is run unless the user trusts it (`Trust`).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from staff.errors import ModelError, tells_of_memory
from staff.models.device import caps_attention, choose_device, choose_dtype
from staff.models.folder import first_line, local_folder, not_loaded_as_causal, read_config
from staff.models.load_adapter import is_tied, load_adapter, untie
from staff.models.memory import is_out_of_memory, release_memory
from staff.models.placement import Spread
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

    dtype, device: see `staff.models.device`.
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
    with quiet():
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
            _copy_parameters(load_adapter(exact, str(adapter), merge=True, trust=trust), model)
        elif adapter is not None:
            model = load_adapter(model, adapter, merge=merge, trust=trust)
    return model.eval().requires_grad_(False)


def load_tokenizer(path: str, *, weights: bool = True, trust: Trust = NO_TRUST) -> Any:
    """Load a model's tokenizer; one without a pad token pads with its end, unknown or first token.

    weights: of a Hub model, whether they are to be fetched too (`local_folder`).

    Raises ModelError when there is none or it has tokens that the model has no embedding for.
    """
    from transformers import AutoTokenizer

    folder = local_folder(path, weights=weights, trust=trust)
    with quiet():
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
    except Exception as error:  # whatever is wrong with the files, the user must see which
        raise _refusal(
            error, path, folder, place=place, attention=attention, quantize=quantize, trust=trust
        ) from error
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


def _refusal(
    error: Exception,
    path: str,
    folder: Path,
    *,
    place: "torch.device",
    attention: str,
    quantize: str,
    trust: Trust,
) -> ModelError:
    """What a failure to read a model means, and what to do.

    The libraries raise the same few classes for all of them: their words tell which it is.
    """
    if is_out_of_memory(error) or tells_of_memory(_unconverted(error)):
        return ModelError(
            f"{path} does not fit into the memory of {place}; see --quantize, or for scoring and "
            "evaluation --device-map"
        )
    if needs_code(error, folder, trust):
        return code_not_run(path, folder)
    if refusal := not_loaded_as_causal(error, path, folder):
        return refusal
    if is_refused_pickle(error):
        return not_weights(weight_files(folder)[0])
    words = str(error)
    if attention != "auto" and re.search("attention|attn", words, re.IGNORECASE):
        return ModelError(
            f"{path} does not support attention {attention}: {first_line(error)}; use "
            "--attention auto"
        )
    if "ignore_mismatched_sizes" in words:
        return ModelError(
            f"{path} has weights whose sizes do not match its config.json; fetch both again"
        )
    if "dispatched on the CPU or the disk" in words:
        return _too_large(path, quantize)
    if "offload the whole model to the disk" in words:
        return _all_on_disk(path)
    if "offload_folder" in words:
        return ModelError(
            f"weights of {path} must be written again to be read from disk when needed: give "
            "--offload-folder DIR"
        )
    return ModelError(f"{path} cannot be loaded: {first_line(error)}")


def _unconverted(error: Exception) -> str:
    """What happened to the first weight that transformers could not quantise or put together.

    It goes on with the others, and tells of it in a report only, which is kept off the terminal.
    """
    found: dict[str, str] = {}
    step = error.__traceback__
    while step is not None:
        found = getattr(step.tb_frame.f_locals.get("loading_info"), "conversion_errors", found)
        step = step.tb_next
    return next(iter(found.values()), "")


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
    if not is_tied(source):  # an adapter may have changed one use of a tied weight alone
        untie(target)
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            parameter.copy_(exact[name])


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' progress bars and notices off the terminal."""
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
