"""A folder's weight files: which ones are loaded, and what they contain."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from staff.errors import ModelError
from staff.notes import read_note

WEIGHTS = "*.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED_INDEX = "pytorch_model.bin.index.json"
SAFETENSORS_NAMES = {"torch.float32": "F32", "torch.bfloat16": "BF16", "torch.float16": "F16"}


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers and PEFT load, sorted; others may hold the same once more.

    Pickled ones (``.bin``) only where there are no others.

    Raises ModelError for an index that cannot be read or names files elsewhere.
    """
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if (folder / INDEX).is_file():
        return _indexed(folder, INDEX)
    if (folder / "adapter_model.safetensors").is_file():
        return [folder / "adapter_model.safetensors"]
    for name in ("pytorch_model.bin", PICKLED_INDEX, "adapter_model.bin"):
        if (folder / name).is_file():
            return _indexed(folder, name) if name == PICKLED_INDEX else [folder / name]
    return sorted(folder.glob(WEIGHTS))


def is_pickled(file: Path) -> bool:
    """Whether a weight file is a pickle."""
    return file.suffix != ".safetensors"


def _indexed(folder: Path, index: str) -> list[Path]:
    """The files that an index names: of its own kind, and in the folder."""
    try:
        found = read_note(folder / index)
        names = sorted({str(name) for name in found["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder / index} cannot be read; fetch the model again") from error
    ending = ".bin" if index == PICKLED_INDEX else ".safetensors"
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ModelError(
                f"{folder / index} names a file outside its folder ({name}); fetch the model "
                "again, from a source you trust"
            )
        if not name.endswith(ending):
            raise ModelError(
                f"{folder / index} names {name}, which is not a {ending} file; fetch the model "
                "again"
            )
    return [folder / name for name in names]


def count_numbers(file: Path) -> int:
    """Numbers in a weight file; tied weights are stored, and counted, once.

    Raises ModelError for a file that is not whole.
    """
    return sum(math.prod(shape) for shape, _ in _tensors(file))


def stored_dtypes(file: Path) -> set[str]:
    """The dtypes in a weight file, as safetensors names them (``F32``, ``BF16``)."""
    return {dtype for _, dtype in _tensors(file)}


def is_refused_pickle(error: Exception) -> bool:
    """Whether torch found that a pickle is no weights; its own words advise to open it anyway."""
    return type(error).__name__ == "UnpicklingError"


def not_weights(file: Path) -> ModelError:
    """The refusal of a pickle that torch would not open."""
    return ModelError(f"{file} cannot be opened as weights alone: it is damaged, or holds code")


def _tensors(file: Path) -> Iterator[tuple[list[int], str]]:
    """Shape and dtype of every tensor of a weight file."""
    from safetensors import SafetensorError, safe_open

    if is_pickled(file):
        yield from _pickled_tensors(file)
        return
    try:
        with safe_open(file, "np") as weights:
            for name in weights.keys():  # noqa: SIM118 - no mapping
                part = weights.get_slice(name)
                yield part.get_shape(), part.get_dtype()
    except SafetensorError as error:  # cut short by a full disk or a broken download
        raise ModelError(f"{file} cannot be read ({error}); fetch the model again") from error


def _pickled_tensors(file: Path) -> Iterator[tuple[list[int], str]]:
    import torch

    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        tensors = [value for value in state.values() if isinstance(value, torch.Tensor)]
    except Exception as error:  # of zip, of pickle, of torch: all say that it is no such file
        raise not_weights(file) from error
    seen = set()
    for tensor in tensors:
        place = (tensor.data_ptr(), tuple(tensor.shape))  # tied weights are one tensor, named twice
        if place not in seen:
            seen.add(place)
            yield list(tensor.shape), SAFETENSORS_NAMES.get(str(tensor.dtype), "")
