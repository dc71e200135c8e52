"""Find the last value projection in the module tree of any decoder (φ of step 2, docs/method.md).

No layer numbers and no table of families: find the decoder's stack of blocks, then in its last
block with attention a layer with a value projection's name. Where values are fused with queries or
keys, `staff.models.value_slice` measures which columns are the values.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from staff.errors import ModelError
from staff.models.skeleton import build_skeleton
from staff.models.trust import NO_TRUST, Trust
from staff.models.value_slice import find_value_columns, layouts

SEPARATE = ("v_proj", "value", "value_proj", "v_lin", "to_v", "wv", "Wv", "v")
FUSED = ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "qkv", "W_pack", "att_proj", "kv_b_proj")
NOT_SELF_ATTENTION = ("cross", "encoder_attn", "vision")
OTHERWISE = "score with --phi lm-head or --phi adapter instead"


@dataclass(frozen=True, slots=True)
class ValueProjection:
    """The layer whose output holds a block's values.

    name: where it is in the model, e.g. ``model.layers.7.self_attn.v_proj``.
    module: the nn.Module itself (inside a LoRA wrapper: the layer it adapts).
    columns: int64 [d_value], the value columns of its output; None when all of them are.
    d_in, d_value: sizes of the value weight φ [d_value, d_in].
    transposed: the layer keeps its weight as [d_in, d_out] (GPT-2's Conv1D).
    """

    name: str
    module: Any
    columns: Tensor | None
    d_in: int
    d_value: int
    transposed: bool

    def take_value(self, output: Tensor) -> Tensor:
        """Values [..., d_value] of the layer's output [..., d_out]."""
        if self.columns is None:
            return output
        return output.index_select(-1, self.columns.to(output.device))

    def weight(self) -> Tensor:
        """The value weight φ [d_value, d_in], detached from the layer's parameter."""
        weight = self.module.weight.detach()
        weight = weight.T if self.transposed else weight
        return weight if self.columns is None else weight[self.columns.to(weight.device)]


def find_value_projection(model: nn.Module) -> ValueProjection:
    """Find the value projection of the last block that attends.

    Raises ModelError, listing what there is, when none or more than one layer fits.
    """
    stack_name, blocks, position = find_blocks(model)
    block_name, block = f"{stack_name}.{position}", blocks[position]
    name, module = _only(_projections(block), block_name, block)
    d_in, d_out, transposed = _sizes(module)
    columns = None
    if _own_name(name) in FUSED:
        columns = find_value_columns(model, module, d_fused=d_out, **_heads(model, position))
        if columns is None:
            raise ModelError(_unknown_layout(f"{block_name}.{name}", d_in, d_out))
    return ValueProjection(
        name=f"{block_name}.{name}",
        module=module,
        columns=columns,
        d_in=d_in,
        d_value=d_out if columns is None else len(columns),
        transposed=transposed,
    )


def check_value_projection(path: str, *, trust: Trust = NO_TRUST) -> None:
    """Check from a model's config alone, without weights, that `find_value_projection` can work.

    The model is built on torch's meta device (a second, no memory). Checked: there is one stack of
    blocks, its last block that attends has one candidate, and where that is fused some known
    layout fits its size. Which columns are the values, and whether the forward pass calls the
    layer at all, only the real model tells.

    Raises ModelError as `find_value_projection` would.
    """
    model = build_skeleton(path, trust=trust)
    stack_name, blocks, position = find_blocks(model)
    where = f"{stack_name}.{position}"
    name, module = _only(_projections(blocks[position]), where, blocks[position])
    d_in, d_out, _ = _sizes(module)
    fused = _own_name(name) in FUSED
    if fused and not any(True for _ in layouts(d_fused=d_out, **_heads(model, position))):
        raise ModelError(_unknown_layout(f"{where}.{name}", d_in, d_out))


def config_of_block(config: Any, number: int) -> Any:
    """The config as one block has it: those of some families differ in it (Gemma 4)."""
    return config.per_layer_config[number] if getattr(config, "is_heterogeneous", False) else config


def _heads(model: Any, number: int) -> dict[str, Any]:
    """Of `layouts`: a block's query heads, their size, and that of its values where it differs."""
    config = config_of_block(model.config.get_text_config(), number)
    heads = config.num_attention_heads
    return {
        "heads": heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // heads,
        "value_dim": getattr(config, "v_head_dim", None),
    }


def _unknown_layout(name: str, d_in: int, d_out: int) -> str:
    return (
        f"{name} fuses queries, keys and values ({d_in} to {d_out}) in an unknown layout; "
        f"{OTHERWISE}"
    )


def _own_name(name: str) -> str:
    """The last part of a layer's name; of one inside a layer of its own (Inkling 2), of that."""
    return name.removesuffix(".linear").rpartition(".")[2]


def _projections(block: nn.Module) -> dict[str, nn.Module]:
    """Layers of a block named like a value projection; fused ones only if none stands alone."""
    named: dict[str, dict[str, nn.Module]] = {"separate": {}, "fused": {}}
    for name, module in block.named_modules():
        last = _own_name(name)
        if any(word in name.lower() for word in NOT_SELF_ATTENTION):
            continue
        layer = getattr(module, "base_layer", module)  # a LoRA wrapper: the layer it adapts
        if getattr(layer, "weight", None) is None or layer.weight.dim() != 2:
            continue
        if last in SEPARATE:
            named["separate"][name] = layer
        elif last in FUSED:
            named["fused"][name] = layer
    return named["separate"] or named["fused"]


def find_blocks(model: Any) -> tuple[str, nn.ModuleList, int]:
    """(name, the decoder's stack of blocks, position of the last one that attends).

    Raises ModelError when there is no such stack or more than one.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    if not any(isinstance(module, nn.ModuleList) for module in decoder.modules()):
        decoder = model  # what is called so is the output head (ModernBERT's decoder)
    names = {module: name for name, module in model.named_modules()}
    stacks: dict[str, nn.ModuleList] = {}
    for name, module in decoder.named_modules():
        inside_another = any(name.startswith(f"{outer}.") for outer in stacks)
        if isinstance(module, nn.ModuleList) and not inside_another and any(map(attends, module)):
            stacks[name] = module
    if len(stacks) == 1:
        stack = next(iter(stacks.values()))
        return names[stack], stack, max(i for i, b in enumerate(stack) if _projections(b))
    if stacks:
        listing = ", ".join(sorted(names[stack] for stack in stacks.values()))
        raise ModelError(
            f"the model has several stacks of blocks with attention: {listing}\n{OTHERWISE}"
        )
    lists = [m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m)]
    where, last = (names[lists[0]], lists[0][-1]) if lists else ("the model", decoder)
    raise ModelError(_none_found(where, last))


def attends(block: nn.Module) -> bool:
    """Whether a block has a value projection: those of some models have none, or not all."""
    return bool(_projections(block))


def _only(found: dict[str, nn.Module], where: str, block: nn.Module) -> tuple[str, nn.Module]:
    if len(found) == 1:
        return next(iter(found.items()))
    if not found:
        raise ModelError(_none_found(where, block))
    listing = ", ".join(sorted(found))
    raise ModelError(
        f"{where} has several layers that could be its value projection: {listing}\n{OTHERWISE}"
    )


def _none_found(where: str, block: nn.Module) -> str:
    layers = [
        f"{name} {list(module.weight.shape)}"
        for name, module in block.named_modules()
        if isinstance(getattr(module, "weight", None), Tensor) and module.weight.dim() == 2
    ]
    return (
        f"no value projection found in the last block ({where}); candidates: "
        f"{', '.join(layers) or 'none'}\n{OTHERWISE}"
    )


def _sizes(module: Any) -> tuple[int, int, bool]:
    """(d_in, d_out, transposed) of a linear layer or of GPT-2's Conv1D."""
    if hasattr(module, "in_features"):
        return int(module.in_features), int(module.out_features), False
    if hasattr(module, "nf"):
        return int(module.weight.shape[0]), int(module.nf), True
    d_out, d_in = module.weight.shape
    return int(d_in), int(d_out), False
