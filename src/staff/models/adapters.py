"""LoRA as the paper fine-tunes with it: on all linear layers, rank 8, alpha 16."""

import warnings
from typing import Any

import torch
from torch import nn

from staff.rng import stream_seed

# Kinds of model whose state spaces PEFT refuses to adapt in this layer: their kernels take its
# weight, and never call it.
STATE_SPACES = ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")
OF_STATE_SPACES = "out_proj"


def lora_config(model: Any, *, rank: int = 8, alpha: int = 16) -> Any:
    """PEFT configuration of step 1: every linear layer but the output head.

    Of mixtures whose stacked experts PEFT adapts (DeepSeek V3), it leaves out layers with the names
    of an expert's: shared experts, dense feed-forward layers.
    """
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        exclude_modules=_not_adapted(model) or None,
        task_type="CAUSAL_LM",
    )


def _not_adapted(model: Any) -> list[str]:
    """Names of linear layers that PEFT cannot adapt.

    Of some families the router is one that returns more than its product (Llama 4, Phi-MoE), or a
    layer multiplies its input in groups (DeepSeek V4).
    """
    names = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and type(module).__name__.endswith(("Router", "GroupedLinear"))
    }
    if model.config.model_type in STATE_SPACES:
        names.add(OF_STATE_SPACES)
    return sorted(names)


def attach_fresh(model: Any, *, seed: int, rank: int = 8) -> Any:
    """Attach a new LoRA to `model` (changed in place) and return the PEFT model around it.

    Its A matrices are drawn from `seed` alone; torch's global generator is left as it was.
    """
    from peft import get_peft_model

    # PEFT draws on the CPU, wherever the model lies: no GPU's generator is looked at.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notes on Conv1D and stacked experts, both handled
        torch.default_generator.manual_seed(stream_seed(seed, "adapter") % 2**63)
        return get_peft_model(model, lora_config(model, rank=rank))


def without_peft(model: Any) -> Any:
    """The model itself, where PEFT is wrapped around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def lora_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Every LoRA parameter of the model, in module order; empty without an adapter."""
    return [p for name, p in model.named_parameters() if "lora_" in name]


def lora_layers(model: nn.Module) -> list[nn.Linear]:
    """The lora_A and lora_B layers, if they hold all LoRA parameters; otherwise none.

    Not so for experts kept as one stacked parameter (their update is added to the weight, never
    called as a layer), for DoRA's magnitudes and for adapted embeddings.
    """
    from peft.tuners.lora import LoraLayer, ParamWrapper

    layers: list[nn.Linear] = []
    for module in model.modules():
        # Around quantised layers they are of other classes, with the same two layers within.
        if isinstance(module, LoraLayer) and not isinstance(module, ParamWrapper):
            for name in module.active_adapters:
                if name in module.lora_A and not module.lora_variant.get(name):
                    pair = [module.lora_A[name], module.lora_B[name]]
                    layers += [layer for layer in pair if isinstance(layer, nn.Linear)]
    claimed = {id(layer.weight) for layer in layers}
    covered = all(id(p) in claimed for p in lora_parameters(model))
    return layers if covered else []
