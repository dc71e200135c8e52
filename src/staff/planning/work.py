"""The batches that a stage will really process: their padded tokens determine its cost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from staff.data.batches import token_budget_batches
from staff.rng import keys_of_ids, stream_seed
from staff.training.tokens import Tokens
from staff.types import Floats, Ints


@dataclass(frozen=True, slots=True)
class Work:
    """k batches, each a group of rows padded to the longest of them.

    places: int64 [B_i] rows of each batch. rows, length, responses: float64 [k], B and T of each
    and its tokens in the loss. multiple: of tokens that T is rounded up to.
    """

    places: Sequence[Ints]
    rows: Floats
    length: Floats
    responses: Floats
    multiple: int = 1

    @property
    def padded(self) -> Floats:
        """B·T of each batch [k]."""
        return self.rows * self.length

    def take(self, batches: Sequence[int] | Ints) -> "Work":
        """Some of the batches."""
        at = np.asarray(batches, np.int64)
        places = [self.places[batch] for batch in at.tolist()]
        return replace(
            self,
            places=places,
            rows=self.rows[at],
            length=self.length[at],
            responses=self.responses[at],
        )


def work_of(places: Sequence[Ints], tokens: Tokens, *, multiple: int = 1) -> Work:
    """The work that groups of rows are."""
    longest = np.array([tokens.lengths[group].max() for group in places], np.int64)
    return Work(
        places=places,
        rows=np.array([len(group) for group in places], float),
        length=(-(-longest // multiple) * multiple).astype(float),
        responses=np.array([tokens.response_lengths[group].sum() for group in places], float),
        multiple=multiple,
    )


def without_prompts(work: Work, tokens: Tokens) -> Work:
    """The same batches of a start token and the response of each row (`staff.scores.alone`)."""
    longest = [tokens.response_lengths[group].max() for group in work.places]
    return replace(work, length=1 + np.array(longest, float))


def tuning_work(
    tokens: Tokens, *, batch_size: int, epochs: int, seed: int, multiple: int = 1
) -> Work:
    """The steps of a fine-tuning, epoch by epoch, as the trainer will group them."""
    import torch
    from transformers.trainer_pt_utils import get_length_grouped_indices

    order = torch.Generator().manual_seed(stream_seed(seed, "fine-tune order") % 2**63)
    rows = np.argsort(keys_of_ids(tokens.ids), kind="stable")
    lengths = tokens.lengths[rows].tolist()
    places: list[Any] = []
    for _ in range(epochs):
        indices = get_length_grouped_indices(lengths, batch_size, generator=order)
        ordered = rows[np.array(indices, np.int64)]
        places += [ordered[k : k + batch_size] for k in range(0, len(ordered), batch_size)]
    return work_of(places, tokens, multiple=multiple)


def scoring_work(
    tokens: Tokens, rows: Ints | None = None, *, batch_tokens: int, shard_rows: int
) -> Work:
    """The batches of a scoring pass over `rows` (all by default), shard by shard."""
    rows = np.arange(len(tokens.lengths)) if rows is None else np.sort(rows)
    places: list[Any] = []
    for start in range(0, len(rows), shard_rows):
        part = rows[start : start + shard_rows]
        batches = token_budget_batches(tokens.lengths[part], batch_tokens=batch_tokens)
        places += [part[batch] for batch in batches]
    return work_of(places, tokens)
