"""Floating-point operations of each kind of work, from a model's shape (docs/plan.md).

A product of a weight with a token costs 2 operations in the forward pass, and 2 more to pass a
gradient back through it. Attention costs 4·d·T² forward in every block (queries with keys,
probabilities with values) and twice that backward: Kaplan et al. 2020, section 2.1; PaLM (Chowdhery
et al. 2022), appendix B. Differences from pre-training: a frozen weight has no gradient of its own,
logits exist at response positions only, and scoring goes backward through half a block.
Norms, activations and the embedding are left out, as there.
"""

import numpy as np

from staff.errors import ConfigError
from staff.planning.shape import Shape
from staff.planning.work import Work
from staff.types import Floats


def forward(shape: Shape, work: Work) -> Floats:
    """A forward pass with logits at response positions, operations [k] of each batch."""
    tokens, length, responses = work.padded, work.length, work.responses
    head = 2 * shape.vocabulary * shape.hidden * responses
    return 2 * shape.linear * tokens + 4 * shape.attention * tokens * length + head


def finetune(shape: Shape, work: Work, *, rank: int = 8, checkpointing: bool = False) -> Floats:
    """A LoRA step [k]: forward, and backward for activations and the adapter's weights only.

    LoRA on experts that are stacked is added to their weights, twice (PEFT tries it out), and its
    gradient comes by way of theirs, of those that were met.
    checkpointing: the blocks' forward pass is done twice.
    """
    tokens, length, responses = work.padded, work.length, work.responses
    lora, beside, added = shape.lora, rank * shape.lora.ends, 4 * rank * shape.lora.added
    frozen = 4 * (shape.linear * tokens + shape.vocabulary * shape.hidden * responses)
    attention = 12 * shape.attention * tokens * length
    again = 2 * (shape.linear + beside + 2 * shape.attention * length) * tokens + added
    step = frozen + attention + (6 * beside + 2 * lora.met) * tokens + 2 * added
    return step + again if checkpointing else step


def score(shape: Shape, work: Work, *, phi: str) -> Floats:
    """An effort score of every row [k].

    Forward, where the last block's feed-forward part sees response positions only; backward as
    far as φ; and the norm of Σ_t g_t x_tᵀ by the cheaper of its two ways (`staff.scores.norms`).
    """
    tokens, length, responses = work.padded, work.length, work.responses
    if phi == "adapter":
        return finetune(shape, work)
    skipped = 2 * shape.last_mlp * (tokens - responses)
    ahead = forward(shape, work) - skipped
    if phi == "lm-head":
        each = responses / work.rows  # the mean of a batch: rows differ little within one
        gram = each**2 * (shape.hidden + shape.vocabulary)
        return ahead + 2 * work.rows * np.minimum(gram, each * shape.hidden * shape.vocabulary)
    if phi not in ("last-value", "last-value-lora"):
        raise ConfigError(f"the cost of phi {phi!r} is not known")
    through_head = 2 * (shape.vocabulary * shape.hidden + shape.last_mlp) * responses
    to_values = 2 * shape.last_output * tokens + 2 * shape.last_attention * tokens * length
    d_in, d_out = shape.value
    norm = 2 * np.minimum(length**2 * (d_in + d_out), length * d_in * d_out) * work.rows
    return ahead + through_head + to_values + norm
