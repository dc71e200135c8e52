"""The sizes of a model that its cost depends on, counted in its modules rather than by hand."""

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn
from transformers.pytorch_utils import Conv1D

from staff.errors import ModelError
from staff.models.adapters import attach_fresh
from staff.models.device import caps_attention
from staff.models.narrow import token_wise_parts
from staff.models.response_logits import output_head
from staff.models.skeleton import build_skeleton
from staff.models.trust import NO_TRUST, Trust
from staff.models.value_projection import attends, config_of_block, find_blocks

LINEAR = (nn.Linear, Conv1D)
RANK = 8  # of the LoRA that is counted: its sizes are multiples of it
# What configs call the number of routed experts, and of those that a token is sent to.
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
CHOSEN = (
    *("num_experts_per_tok", "num_experts_per_token", "top_k_experts"),
    *("moe_topk", "moe_top_k", "moe_k"),
)


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA of rank 1, as PEFT puts it on this model.

    parameters: all of it. ends: Σ (d_in + d_out) of the linear layers that it is called beside.
    stacked: weights of the routed experts, kept as stacked parameters, that it is added to before
    they are used; met: of these, those that a token meets; added: operations of the product that
    is added, over two. PEFT gives a fused gate and up projection twice the rank, and some
    families' experts no LoRA at all.
    """

    parameters: int
    ends: int
    stacked: int
    met: int
    added: int


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of one model.

    parameters: all of it, tied weights once. vocabulary, hidden: of the output head, V and D.
    blocks: how many. linear: weights of the blocks' linear layers that a token meets, N (of
    routed experts only the chosen). ends: Σ (d_in + d_out) of these layers. attention: Σ
    heads·head_dim over the blocks that attend (queries and values may differ: their mean),
    scores: Σ heads; eager: whether attention keeps a
    number for every head and pair of tokens; capped: whether logits are, which keeps them once
    more. last_attention, last_output, last_mlp: of the last
    block alone heads·head_dim, its output projection's weights, and those of the parts that
    `staff.models.narrow` runs at response positions only. value: d_in and d_out of the last value
    projection. quantisable: weights of the blocks' linear layers, all of them, and largest: of the
    largest of these layers (experts that are stacked are no linear layers). in_blocks: parameters
    of the blocks, all of them.
    """

    parameters: int
    vocabulary: int
    hidden: int
    blocks: int
    linear: int
    ends: int
    attention: int
    scores: int
    eager: bool
    capped: bool
    last_attention: int
    last_output: int
    last_mlp: int
    value: tuple[int, int]
    quantisable: int
    largest: int
    in_blocks: int
    lora: Lora

    @property
    def met(self) -> int:
        """Weights that a response token meets, embedding aside: of routed experts the chosen."""
        return self.linear + self.vocabulary * self.hidden

    def adapter(self, rank: int) -> int:
        """Parameters of a LoRA of this rank on every linear layer but the head."""
        return rank * self.lora.parameters


def read_shape(path: str, *, trust: Trust = NO_TRUST) -> Shape:
    """The shape of a model folder or Hub id, from its config; weights need not be there.

    Raises ModelError when it is no causal LM or has no one stack of blocks.
    """
    return shape_of(build_skeleton(path, weights=False, trust=trust))


def shape_of(model: Any) -> Shape:
    """The shape of a loaded model, or of one on the meta device."""
    _, blocks, _ = find_blocks(model)
    config = model.config.get_text_config()
    attending = [
        _attention(model, config_of_block(config, number))
        for number, block in enumerate(blocks)
        if attends(block)
    ]
    last = attending[-1]
    routed = _experts(config)
    linear, ends = zip(*(_linear(block, routed) for block in blocks.children()), strict=True)
    weight: Any = output_head(model).weight
    vocabulary, hidden = weight.shape
    layers = [
        module.weight.numel() for module in blocks.modules() if isinstance(module, LINEAR)
    ] or [0]
    return Shape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        vocabulary=vocabulary,
        hidden=hidden,
        blocks=len(blocks),
        linear=sum(linear),
        ends=sum(ends),
        attention=sum(one.width for one in attending),
        scores=sum(one.heads for one in attending),
        eager=caps_attention(config) or config._attn_implementation == "eager",
        capped=getattr(config, "final_logit_softcapping", None) is not None,
        last_attention=last.width,
        last_output=last.output * hidden,
        last_mlp=sum(_linear(part, routed)[0] for part in token_wise_parts(model)),
        value=(hidden, last.values),
        quantisable=sum(layers),
        largest=max(layers),
        in_blocks=sum(parameter.numel() for parameter in blocks.parameters()),
        lora=_lora_of(model, routed),
    )


class _Attention(NamedTuple):
    """Of one block: heads, heads·head_dim, that of the heads of values, and of the output."""

    heads: int
    width: int
    values: int
    output: int


def _attention(model: Any, config: Any) -> _Attention:
    heads = getattr(config, "num_attention_heads", None)
    if not heads:
        raise ModelError(f"{type(model).__name__}: its config does not say how many heads it has")
    if getattr(config, "qk_nope_head_dim", None):  # keys and values from a latent vector (DeepSeek)
        queries = config.qk_nope_head_dim + config.qk_rope_head_dim
        values = heads * config.v_head_dim
        return _Attention(heads, (heads * queries + values) // 2, values, values)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    values = getattr(config, "num_key_value_heads", None) or heads
    return _Attention(heads, heads * head_dim, values * head_dim, heads * head_dim)


def _lora_of(model: Any, routed: tuple[int, int]) -> Lora:
    """What PEFT makes of a model, counted in a copy of it without weights."""
    from peft.tuners.lora import LoraLayer, ParamWrapper

    tuned = attach_fresh(copy.deepcopy(model).to("meta"), seed=0, rank=RANK)
    ends = stacked = met = added = 0
    for module in tuned.modules():
        if not isinstance(module, LoraLayer):
            continue
        layer: Any = module
        inner, outer = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        if isinstance(module, ParamWrapper) and module.num_experts > 1:  # not a router
            weight, rank = layer.get_param(), inner.shape[0] // layer.num_experts
            stacked += weight.numel()
            met += round(_share(weight, routed) * weight.numel())
            added += rank * weight.numel() // RANK
        else:
            ends += inner.shape[1] + outer.shape[0]
    every = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    return Lora(every // RANK, ends, stacked, met, added)


def _experts(config: Any) -> tuple[int, int]:
    """How many routed experts a token is sent to, and how many there are; zeros without any."""
    chosen, every = (
        next((found for name in names if (found := getattr(config, name, None))), 0)
        for names in (CHOSEN, EXPERTS)
    )
    return (chosen, every) if isinstance(chosen, int) and isinstance(every, int) else (0, 0)


def _share(parameter: Any, routed: tuple[int, int]) -> float:
    """Chosen over all experts of a stack of them, [experts, d, d']; 1 of any other parameter."""
    chosen, every = routed
    return chosen / every if chosen and parameter.shape[0] == every else 1.0


def _linear(part: nn.Module, routed: tuple[int, int]) -> tuple[int, int]:
    """(weights, Σ (d_in + d_out)) of the linear layers in a part of a model that a token meets."""
    weights = ends = 0
    for name, parameter in part.named_parameters():
        if name.endswith("bias"):  # experts' are stacked, too
            continue
        if parameter.dim() == 2:
            weights += parameter.numel()
            ends += sum(parameter.shape)
        elif parameter.dim() == 3:
            share = _share(parameter, routed)
            weights += round(share * parameter.numel())
            ends += round(share * parameter.shape[0] * (parameter.shape[1] + parameter.shape[2]))
    return weights, ends
