"""The sizes of a model that its cost depends on, counted in its modules rather than by hand."""

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from staff.errors import ModelError
from staff.models.narrow import token_wise_parts
from staff.models.response_logits import output_head
from staff.models.skeleton import build_skeleton
from staff.models.trust import NO_TRUST, Trust
from staff.models.value_projection import find_blocks

LINEAR = (nn.Linear, Conv1D)


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of one model.

    parameters: all of it, tied weights once. vocabulary, hidden: of the output head, V and D.
    blocks: how many. linear: weights of the blocks' linear layers that a token meets, N (of
    routed experts only the chosen). ends: Σ (d_in + d_out) of these layers: rank times it is a
    LoRA's size. attention: Σ heads·head_dim over the blocks. last_attention, last_output,
    last_mlp: of the last block alone the same, its output projection's weights, and those of the
    parts that `staff.models.narrow` runs at response positions only. value: d_in and d_out of
    the last value projection. quantisable: weights of the blocks' linear layers, all of them, and
    largest: of the largest of these layers (experts that are stacked are no linear layers).
    in_blocks: parameters of the blocks, all of them.
    """

    parameters: int
    vocabulary: int
    hidden: int
    blocks: int
    linear: int
    ends: int
    attention: int
    last_attention: int
    last_output: int
    last_mlp: int
    value: tuple[int, int]
    quantisable: int
    largest: int
    in_blocks: int

    def adapter(self, rank: int) -> int:
        """Parameters of a LoRA of this rank on every linear layer but the head."""
        return rank * self.ends


def read_shape(path: str, *, trust: Trust = NO_TRUST) -> Shape:
    """The shape of a model folder or Hub id, from its config; weights need not be there.

    Raises ModelError when it is no causal LM or has no one stack of blocks.
    """
    return shape_of(build_skeleton(path, weights=False, trust=trust))


def shape_of(model: Any) -> Shape:
    """The shape of a loaded model, or of one on the meta device."""
    _, blocks, _ = find_blocks(model)
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    if not heads:
        raise ModelError(f"{type(model).__name__}: its config does not say how many heads it has")
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    value_heads = getattr(config, "num_key_value_heads", None) or heads
    share = _share_of_experts(config)
    linear, ends = zip(*(_linear(block, share) for block in blocks.children()), strict=True)
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
        attention=len(blocks) * heads * head_dim,
        last_attention=heads * head_dim,
        last_output=heads * head_dim * hidden,
        last_mlp=sum(_linear(part, share)[0] for part in token_wise_parts(model)),
        value=(hidden, value_heads * head_dim),
        quantisable=sum(layers),
        largest=max(layers),
        in_blocks=sum(parameter.numel() for parameter in blocks.parameters()),
    )


def _share_of_experts(config: Any) -> float:
    """Chosen over all routed experts; 1 without any."""
    chosen = getattr(config, "num_experts_per_tok", None)
    every = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    return chosen / every if chosen and every else 1.0


def _linear(part: nn.Module, share: float) -> tuple[int, int]:
    """(weights, Σ (d_in + d_out)) of the linear layers in a part of a model.

    Experts are kept as stacked parameters [experts, d, d'], of which `share` is used at a time;
    LoRA puts rank·(d + d') on each of them.
    """
    weights = ends = 0
    for parameter in part.parameters():
        if parameter.dim() == 2:
            weights += parameter.numel()
            ends += sum(parameter.shape)
        elif parameter.dim() == 3:
            weights += round(share * parameter.numel())
            ends += parameter.shape[0] * (parameter.shape[1] + parameter.shape[2])
    return weights, ends
