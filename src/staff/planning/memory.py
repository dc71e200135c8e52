"""Peak memory of each kind of work in bytes, from a model's shape (docs/plan.md).

Weights and the optimiser's states are counted; what autograd keeps is an estimate: a multiple of
the tokens and of the sizes of the linear layers they pass. The two multiples were fitted on the
embedded family (`KEPT`); the CUDA context, the allocator's fragments and the batch itself are left
out. A measurement is what --probe is for.
"""

from staff.planning.shape import Shape
from staff.planning.work import Work

# Numbers kept for the backward pass of a LoRA step, over Σ (d_in + d_out) of the linear layers
# and tokens: what attention, activations and norms keep beside them depends on the precision.
KEPT = {4: 1.1, 2: 1.4}
ADAM = 16  # bytes a trained parameter: value, gradient and two moments, all float32
NORM_NUMBERS = 2**26  # float32 numbers that `staff.scores.norms` holds at once
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


def finetune(
    shape: Shape,
    work: Work,
    *,
    size: int,
    rank: int = 8,
    quantize: str = "none",
    checkpointing: bool = False,
) -> int:
    """The largest step of a LoRA fine-tuning, bytes. size: of a number, 2 or 4.

    checkpointing: between blocks their inputs alone are kept, and one block's activations.
    """
    kept = KEPT[size] * size * shape.ends * float(work.padded.max())
    if checkpointing:
        inputs = size * shape.hidden * shape.blocks * float(work.padded.max())
        kept = inputs + kept / shape.blocks
    if quantize == "int8":  # torchao keeps what it dequantised until the backward pass
        kept += size * shape.quantisable / (shape.blocks if checkpointing else 1)
    # At the loss: the logits, their float32 copy, and the log-probabilities or their gradient.
    logits = (size + 8) * shape.vocabulary * float(work.responses.max())
    own = weights(shape, size=size, quantize=quantize)
    return round(own + ADAM * shape.adapter(rank) + kept + logits)


def score(shape: Shape, work: Work, *, size: int, phi: str, quantize: str = "none") -> int:
    """The largest batch of a scoring pass, bytes: one block at a time, no graph below φ."""
    if phi == "adapter":
        return finetune(shape, work, size=size, quantize=quantize)
    block = KEPT[size] * size * shape.ends / shape.blocks * float(work.padded.max())
    logits = 2 * size * shape.vocabulary * float(work.responses.max())  # and their gradient
    d_in, d_out = shape.value
    held = float((work.rows * work.length**2 * 2).clip(max=work.rows * d_in * d_out).max())
    own = weights(shape, size=size, quantize=quantize)
    return round(own + block + logits + 4 * min(held, NORM_NUMBERS))
