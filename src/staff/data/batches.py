"""Batches of tokenised samples for the models."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from staff.types import IGNORE, Ints, TokenisedExample, read_only

if TYPE_CHECKING:
    from torch import Tensor

PAD_ID = 0  # fills short rows up; masked, so any token will do


@dataclass(frozen=True, slots=True)
class Batch:
    """B samples padded to T tokens.

    rows: int64 [B], positions in the store. input_ids, labels (-100: not in the loss) and
    attention_mask (1: a real token): int64 [B, T].
    """

    rows: "Tensor"
    input_ids: "Tensor"
    labels: "Tensor"
    attention_mask: "Tensor"

    def unmasked_ids(self) -> "Tensor":
        """The ids of rows padded on the right, for a causal model that is given no mask.

        Some models warn of pad tokens without one; a row's first token will do as well there.
        """
        return self.input_ids.where(self.attention_mask.bool(), self.input_ids[:, :1])


def token_budget_batches(
    lengths: Any, *, batch_tokens: int, apart: int | None = None
) -> list[Ints]:
    """Group samples of like length so that B·T, padding counted, stays within `batch_tokens`.

    lengths: int [n], tokens of each sample. Returns int64 [B] positions a batch, each sample
    once; the longest come first, so that memory runs out at the start if at all. A sample longer
    than the budget is a batch of its own. Equal lengths keep their order.

    apart: a sample with more tokens shares no batch with one that has not
    (`staff.models.rotary.longest_alike`).

    >>> [batch.tolist() for batch in token_budget_batches([3, 9, 4, 3], batch_tokens=8)]
    [[1], [2, 0], [3]]
    """
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    longer = 0 if apart is None else int((lengths > apart).sum())
    batches = []
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        size = max(1, batch_tokens // longest)
        if start < longer:
            size = min(size, longer - start)
        batches.append(read_only(order[start : start + size]))
        start += size
    return batches


def collate(
    examples: Sequence[TokenisedExample],
    *,
    side: Literal["left", "right"] = "right",
    rows: Sequence[int] | Ints | None = None,
    multiple: int = 1,
    context: int | None = None,
) -> Batch:
    """Pad B samples to the longest, or to the next multiple of `multiple`, T.

    side: where the padding goes. rows: the samples' positions; 0 … B-1 if not given.
    context: the model's, above which nothing is padded.
    """
    import torch

    width = max((len(example.input_ids) for example in examples), default=0)
    wider = -(-width // multiple) * multiple
    width = max(width, min(wider, context or wider))
    shape = (len(examples), width)  # [B, T]
    ids = np.full(shape, PAD_ID, np.int64)
    labels = np.full(shape, IGNORE, np.int64)
    mask = np.zeros(shape, np.int64)
    for n, example in enumerate(examples):
        size = len(example.input_ids)
        place = slice(width - size, width) if side == "left" else slice(0, size)
        ids[n, place], labels[n, place], mask[n, place] = example.input_ids, example.labels, 1
    positions = np.array(range(len(examples)) if rows is None else rows, np.int64)
    return Batch(*(torch.from_numpy(array) for array in (positions, ids, labels, mask)))
