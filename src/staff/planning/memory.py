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


def finetune(shape: Shape, work: Work, *, size: int, rank: int = 8) -> int:
    """The largest step of a LoRA fine-tuning, bytes. size: of a number, 2 or 4."""
    kept = KEPT[size] * size * shape.ends * float(work.padded.max())
    # At the loss: the logits, their float32 copy, and the log-probabilities or their gradient.
    logits = (size + 8) * shape.vocabulary * float(work.responses.max())
    return round(size * shape.parameters + ADAM * shape.adapter(rank) + kept + logits)


def score(shape: Shape, work: Work, *, size: int, phi: str) -> int:
    """The largest batch of a scoring pass, bytes: one block at a time, no graph below φ."""
    if phi == "adapter":
        return finetune(shape, work, size=size)
    block = KEPT[size] * size * shape.ends / shape.blocks * float(work.padded.max())
    logits = 2 * size * shape.vocabulary * float(work.responses.max())  # and their gradient
    d_in, d_out = shape.value
    held = float((work.rows * work.length**2 * 2).clip(max=work.rows * d_in * d_out).max())
    return round(size * shape.parameters + block + logits + 4 * min(held, NORM_NUMBERS))
