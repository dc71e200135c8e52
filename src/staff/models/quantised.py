"""Weights of linear layers in 8 or 4 bits: what is loaded, by which library, and how it computes.

``nf4``       4-bit NormalFloat in blocks of 64, their scales in 8 bits (QLoRA, arXiv 2305.14314);
              products in full precision, with dequantised weights; by bitsandbytes
``int8``      8 bits, one scale per row; products in full precision; by torchao
``llm-int8``  8 bits, one scale per row; inputs in 8 bits as well, but columns with an outlier above
              6 in 16 (LLM.int8(), arXiv 2208.07339); by bitsandbytes

Embeddings, the output head and everything that is not a linear layer keep their precision. With the
first two a score is exactly that of the dequantised weights; with ``llm-int8`` it also depends, by
rounding, on the other rows of a batch, whose outliers share columns with its own.
"""

import logging
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from staff.errors import ConfigError, ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

NONE = "none"
LIBRARIES = {"nf4": "bitsandbytes", "int8": "torchao", "llm-int8": "bitsandbytes"}
EXTRA = "pip install 'staff-coreset[quant]'"
# Whose notices (missing CUDA libraries, every cast of an input) are of no use to the user.
CHATTY = ("bitsandbytes", "bitsandbytes.autograd._functions", "torchao", "torch.utils._pytree")


def library_of(quantize: str) -> tuple[str, ...]:
    """The package that does it, for a fingerprint; () for none."""
    return () if quantize == NONE else (LIBRARIES[quantize],)


def check_installed(quantize: str, *, flag: str = "--quantize") -> None:
    """Raise ConfigError if the package that `quantize` needs is not there; imports nothing.

    flag: that it was given with.
    """
    for library in library_of(quantize):
        if find_spec(library) is None:
            raise ConfigError(f"{flag} {quantize} needs {library}: {EXTRA}")


def quantisation(quantize: str, *, dtype: "torch.dtype") -> Any:
    """What `from_pretrained` is to be told; dtype: that products are computed in."""
    check_installed(quantize)
    hush()
    if quantize == "int8":
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        return TorchAoConfig(Int8WeightOnlyConfig(set_inductor_config=False))
    from transformers import BitsAndBytesConfig

    if quantize == "llm-int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def hush() -> None:
    """Let the libraries tell of errors only, from their import on."""
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)


def settle(model: Any, path: str, quantize: str) -> None:
    """Make a model that was just loaded compute as the table above says, if it is quantised.

    On a CPU with AVX512-BF16 bitsandbytes would repack 4-bit weights at the first product without
    a gradient and multiply in bfloat16 whatever was asked for; nothing goes backward through that.

    Raises ModelError if a layer was to be quantised and none is.
    """
    layers: list[Any] = [layer for _, layer in quantised_layers(model)]
    if not layers and quantize != NONE:
        raise ModelError(
            f"{path} has no linear layer that --quantize {quantize} can quantise: leave it out"
        )
    for layer in layers:
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def quantised_layers(model: Any) -> Iterator[tuple[str, "nn.Module"]]:
    """(name, layer) of every layer whose weight is quantised, in module order."""
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")  # its own: a LoRA wrapper shows another's
        if is_quantised(weight):
            yield name, module


def is_quantised(weight: Any) -> bool:
    """Whether this is a weight of bitsandbytes or torchao."""
    return any(
        kind.__name__ in ("Params4bit", "Int8Params") or kind.__module__.startswith("torchao.")
        for kind in type(weight).__mro__
    )


def dequantise_into(quantised: Any, exact: Any) -> None:
    """Give `exact`, the same model unquantised, the weights that `quantised` computes with."""
    import torch
    from peft.utils.integrations import dequantize_module_weight
    from transformers.pytorch_utils import Conv1D

    from staff.models.adapters import without_peft

    quantised, exact = without_peft(quantised), without_peft(exact)
    with torch.no_grad():
        for name, layer in quantised_layers(quantised):
            plain = exact.get_submodule(name.removesuffix(".base_layer"))
            plain = getattr(plain, "base_layer", plain)  # one of the two may have LoRA around it
            found = dequantize_module_weight(layer)
            # GPT-2's Conv1D, for which a linear layer stands here, keeps it as [d_in, d_out].
            plain.weight.copy_(found.T if isinstance(plain, Conv1D) else found)
