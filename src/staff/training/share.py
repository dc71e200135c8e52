"""One of several processes that train a model together."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from staff.training.parts import dealt, most_dealt


@dataclass(frozen=True, slots=True)
class Share:
    """One of several processes that train together.

    add: sums a tensor on the CPU in place.
    """

    rank: int
    size: int
    add: Callable[[torch.Tensor], None]

    def of(self, rows: list[int]) -> list[int]:
        """This process's rows of a batch, which may be none."""
        return dealt(rows, rank=self.rank, size=self.size)

    def most(self, rows: int) -> int:
        """How many of so many rows the process with the most takes."""
        return most_dealt(rows, size=self.size)

    def agrees(self, number: int) -> bool:
        """Whether all processes have this number; where they do not, at least one has False."""
        told = torch.tensor([number, 1.0], dtype=torch.float64)  # sums of whole numbers are exact
        self.add(told)
        return float(told[0]) == number * float(told[1])

    def summed(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """The sums over all processes, float32, in the tensors' shapes and on their device.

        They go to the CPU, where processes talk, and back in one piece each.
        """
        flat = torch.cat([tensor.detach().float().flatten() for tensor in tensors])
        told = flat.cpu()
        self.add(told)
        parts = told.to(flat.device).split([tensor.numel() for tensor in tensors])
        return [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]
