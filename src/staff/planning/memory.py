"""Peak memory of each kind of work in bytes, from a model's shape (docs/plan.md).

Weights and optimiser states are counted; what autograd keeps is an estimate: a multiple of the
tokens and of the sizes of the linear layers they pass. The two multiples were fitted on the
embedded family (`KEPT`); the CUDA context, memory fragmentation and the batch itself are left out.
Use --probe to measure.
"""

import numpy as np

from staff.planning.shape import Shape
from staff.planning.work import Work

# Numbers kept for the backward pass of a LoRA step, over Σ (d_in + d_out) of the linear layers
# and tokens: what attention, activations and norms keep beside them depends on the precision.
KEPT = {4: 1.1, 2: 1.4}
# Bytes of a head and pair of tokens where attention is eager: its probabilities in float32, and
# before a cap, or rounded, once more.
EAGER = 8
ADAM = 16  # bytes a trained parameter: value, gradient and two moments, all float32
NORM_NUMBERS = 2**26  # float32 numbers that `staff.scores.norms` holds at once
LOGITS = 2**25  # that `staff.scores.signals` takes at once, but on a CPU
HOST = 600_000_000  # Python with torch, transformers and TRL (benchmarks/results/memory.md)


# Bytes of a quantised weight: of nf4 half of one, a scale of 8 bits for 64 weights and one of 32
# bits for 256 scales; of 8 bits the scales, one for a row, are left out.
QUANTISED = {"nf4": 1 / 2 + 1 / 64 + 4 / (64 * 256), "int8": 1.0, "llm-int8": 1.0}


def weights(shape: Shape, *, size: int, quantize: str = "none") -> float:
    """The model's weights, and of quantised ones the largest layer dequantised for a product."""
    if quantize == "none":
        return size * shape.parameters
    whole = size * (shape.parameters - shape.quantisable + shape.largest)
    return whole + QUANTISED[quantize] * shape.quantisable


def divided(shape: Shape, *, size: int, processes: int) -> float:
    """The weights that one of the processes holds that share a model (`staff.training.sharding`).

    Its part of everything; what is outside the blocks, which once put together stays so until the
    end of the backward pass; the block that computes, and the next one on its way.
    """
    outside = shape.parameters - shape.in_blocks
    together = outside + min(2, shape.blocks) * shape.in_blocks / shape.blocks
    return size * (shape.parameters / processes + together)


def finetune(
    shape: Shape,
    work: Work,
    *,
    size: int,
    rank: int = 8,
    quantize: str = "none",
    checkpointing: bool = False,
    processes: int = 1,
) -> int:
    """The largest step of a LoRA fine-tuning, bytes. size: of a number, 2 or 4.

    work: what is computed at once: steps, or parts of them. checkpointing: between blocks their
    inputs alone are kept, and one block's activations. processes: among which the frozen weights
    are divided; the adapter, its gradients and moments are whole in each.
    """
    kept = KEPT[size] * size * shape.ends * float(work.padded.max()) + _pairs(shape, work)
    # Experts with their LoRA added, of which each has a gradient in its turn.
    kept += size * shape.lora.stacked
    gradient = size * shape.lora.stacked / shape.blocks
    if checkpointing:
        inputs = size * shape.hidden * shape.blocks * float(work.padded.max())
        kept = inputs + kept / shape.blocks
    if quantize == "int8":  # torchao keeps what it dequantised until the backward pass
        kept += size * shape.quantisable / (shape.blocks if checkpointing else 1)
    # Back from the loss, in float32: log-probabilities, and the gradients at them and at logits.
    logits = (12 + size * shape.capped) * shape.vocabulary * float(work.responses.max())
    own = weights(shape, size=size, quantize=quantize)
    if processes > 1:
        own = divided(shape, size=size, processes=processes)
    return round(own + ADAM * shape.adapter(rank) + kept + gradient + logits)


def score(
    shape: Shape,
    work: Work,
    *,
    size: int,
    phi: str,
    quantize: str = "none",
    room: float | None = None,
    cpu: bool = False,
) -> int:
    """The largest batch of a scoring pass, bytes: one block at a time, no graph below φ.

    cpu: where the signals are computed from few logits at a time. room: most bytes of the weights
    that lie on the device, the others elsewhere until they are needed; a layer that is brought
    there is within it.
    """
    if phi == "adapter":
        return finetune(shape, work, size=size, quantize=quantize)
    kept = KEPT[size] * size * shape.ends * float(work.padded.max()) + _pairs(shape, work)
    every = shape.vocabulary * float(work.responses.max())
    logits = (2 + shape.capped) * size * every  # and their gradient
    logits += 0 if cpu else 8 * min(every, LOGITS)  # in float32, and their exponentials
    own = weights(shape, size=size, quantize=quantize)
    own = own if room is None else min(own, room)
    return round(own + kept / shape.blocks + logits + 4 * _norm_numbers(shape, work, phi))


def _norm_numbers(shape: Shape, work: Work, phi: str) -> float:
    """Numbers that the norms of the largest batch hold: of several rows, but of one at least."""
    rows, length, (d_in, d_out) = work.rows, work.length, shape.value
    if phi == "lm-head":  # row by row, at its response positions
        rows, length = np.ones_like(rows), work.responses / work.rows
        d_in, d_out = shape.hidden, shape.vocabulary
    gram = length * (d_in + d_out) < d_in * d_out
    held = np.where(gram, 2 * length**2, d_in * d_out)
    return float(np.minimum(rows * held, np.maximum(held, NORM_NUMBERS)).max())


def _pairs(shape: Shape, work: Work) -> float:
    """What attention keeps of every head and pair of tokens, bytes; nothing unless it is eager."""
    return EAGER * shape.scores * float((work.padded * work.length).max()) if shape.eager else 0.0
