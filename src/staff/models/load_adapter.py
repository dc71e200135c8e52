"""Load a LoRA adapter from its folder, onto a model that is loaded."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from staff.errors import ModelError
from staff.models.folder import check_adapter, first_line
from staff.models.memory import is_out_of_memory
from staff.models.placement import device_of
from staff.models.trust import Trust
from staff.models.weights import is_refused_pickle, not_weights, weight_files


def load_adapter(model: Any, adapter: str, *, merge: bool, trust: Trust) -> Any:
    """The model with the adapter added to its weights, or with merge=False kept beside them.

    Raises ModelError when the adapter is not whole or does not fit the model.
    """
    from peft import PeftModel

    folder = Path(adapter)
    check_adapter(adapter, trust=trust)
    try:
        with _placed_by_us(model) as placed, warnings.catch_warnings():
            # PEFT asks the model by a name that transformers has renamed; users cannot change that.
            warnings.filterwarnings(
                "ignore",
                message=".is_gradient_checkpointing. is deprecated",
                category=FutureWarning,
            )
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


def is_tied(model: Any) -> bool:
    """Whether the output head's weight is the embedding's."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def untie(model: Any) -> None:
    """Give the output head a weight of its own, if it shares the embedding's."""
    import torch

    if is_tied(model):
        head = model.get_output_embeddings()
        head = getattr(head, "base_layer", head)
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)


def _untie_adapted(model: Any) -> None:
    """Untie a weight if one of its uses has LoRA: what is added to it is not for the other use."""
    from peft.tuners.lora import LoraLayer

    base = model.get_base_model()
    uses = (base.get_input_embeddings(), base.get_output_embeddings())
    if any(isinstance(layer, LoraLayer) for layer in uses):
        untie(base)


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
