"""Parts of a batch that are computed one after another, their gradients added up."""

from typing import Any

import torch
from torch import Tensor

from staff.types import IGNORE


def micro_batches(
    inputs: dict[str, Tensor], *, size: int | None, parts: int | None = None
) -> list[dict[str, Any]]:
    """The batch in parts of at most `size` rows; in one part without a size.

    inputs: input_ids, labels, attention_mask int64 [B, T], and rows, which are the trainer's to
    count: they stay with the first part.
    parts: make so many, whatever B is: what lacks rows is a row that is in no loss. Processes
    that hold a model together must all run it equally often.

    >>> ids = torch.arange(6).view(3, 2)
    >>> batch = {"input_ids": ids, "labels": ids, "attention_mask": ids, "rows": torch.arange(3)}
    >>> [part["input_ids"].tolist() for part in micro_batches(batch, size=2)]
    [[[0, 1], [2, 3]], [[4, 5]]]
    """
    batch, none = dict(inputs), torch.empty(0, dtype=torch.int64)
    rows = batch.pop("rows", none)
    if size is None:
        return [inputs]
    pieces = {name: value.split(size) for name, value in batch.items()}
    found = [
        {name: values[i] for name, values in pieces.items()} for i in range(len(pieces["labels"]))
    ]
    idle = {name: value[:1] for name, value in batch.items()}
    idle["labels"] = torch.full_like(idle["labels"], IGNORE)
    found += [idle] * ((parts or 0) - len(found))
    return [{**part, "rows": none if i else rows} for i, part in enumerate(found)]
