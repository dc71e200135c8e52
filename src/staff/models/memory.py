"""Continue with smaller batches when memory runs out."""

import gc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from staff.errors import StaffError, tells_of_memory
from staff.types import Ints

Result = TypeVar("Result")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a device or the host ran out of memory."""
    import torch

    kinds = torch.OutOfMemoryError | MemoryError
    return isinstance(error, kinds) or tells_of_memory(str(error))


class Halving:
    """Runs batches; the token budget `limit` halves, for good, whenever memory runs out.

    limit: padded tokens a batch, at first.
    note: receives a line whenever the limit falls.
    """

    def __init__(self, limit: int, *, note: Callable[[str], None]) -> None:
        self.limit = limit
        self.note = note

    def run(
        self,
        batches: Sequence[Ints],
        lengths: Any,
        work: Callable[[Ints], Result],
        *,
        describe: Callable[[int], str],
    ) -> Iterator[tuple[Ints, Result]]:
        """Yield (places, work(places)) until every place of the batches was done once.

        Args:
            batches: int64 [B] places each, within the limit (`token_budget_batches`).
            lengths: int [n], tokens that each place takes.
            work: does one batch.
            describe: names a place for the message, e.g. "row 3 (id x, 90 tokens)".

        Raises:
            StaffError: one place alone is too large for memory.
        """
        lengths = np.asarray(lengths)
        queue = deque(batches)
        while queue:
            places = queue.popleft()
            size = len(places) * int(lengths[places].max())
            if size > self.limit and len(places) > 1:
                queue.extendleft(reversed(np.array_split(places, 2)))
                continue
            done = _attempt(work, places)
            if done is None:
                release_memory()
                if len(places) == 1:
                    raise StaffError(
                        f"out of memory on {describe(int(places[0]))} alone; lower --max-length, "
                        "or use another --device or --dtype"
                    )
                self.limit = size // 2
                self.note(f"out of memory: continuing with batches of {self.limit} tokens")
                queue.appendleft(places)
                continue
            yield places, done[0]


def _attempt(work: Callable[[Ints], Result], places: Ints) -> tuple[Result] | None:
    """The result in a tuple, or None when memory ran out."""
    try:
        return (work(places),)
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not is_out_of_memory(error):
            raise
    return None  # outside `except`, so that the failed batch's tensors are let go


def release_memory() -> None:
    """Free what nothing refers to any more, in cycles too, and give it back to the device."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
