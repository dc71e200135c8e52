"""Distinguish a fine-tuning that diverged from one that learnt."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import TYPE_CHECKING

from staff.errors import StaffError

if TYPE_CHECKING:
    from torch import Tensor

ENDS = 10  # steps that are compared at either end, at most a third of all
FACTOR, NATS = 1.25, 0.5  # above its start: the loss of a model that knows little is high anyway

CAUSES = (
    "Likely causes: too high a learning rate (lower --learning-rate), or float16 overflow (use "
    "bfloat16 or float32)"
)


def check_converged(losses: Sequence[float]) -> None:
    """Raise `StaffError` if the loss of the last steps is far above that of the first.

    Medians, so that one hard batch does not count; fewer than six steps tell nothing.

    >>> check_converged([3.0, 2.9, 3.1, 2.0, 1.0, 3.4])
    """
    ends = min(ENDS, len(losses) // 3)
    if ends < 2:
        return
    first, last = median(losses[:ends]), median(losses[-ends:])
    if last > FACTOR * first + NATS:
        raise StaffError(
            f"fine-tuning diverged: the training loss rose from {first:.3g} to {last:.3g}. {CAUSES}"
        )


def check_finite(weights: "Iterable[Tensor]") -> None:
    """Raise `StaffError` if the last step spoilt a weight; any other the next loss tells of."""
    if not all(weight.isfinite().all() for weight in weights):
        raise StaffError(
            "fine-tuning diverged: after its last step not all weights of the adapter are finite. "
            f"{CAUSES}"
        )
