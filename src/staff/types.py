"""The shared data types: frozen, slotted; their arrays are read-only.

n samples, K regions, B batch, T tokens, v verified, m chosen.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]
Bools = NDArray[np.bool_]

IGNORE = -100  # a label that is not in the loss


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array with writing switched off (a copy if it does not own its data)."""
    array = array if array.flags.owndata else array.copy()
    array.setflags(write=False)
    return array


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. `role` is system, user, assistant or tool.

    more: its other fields that chat templates read, as they get them: tool calls, reasoning, …
    learnt: False for an answer that is not in the loss.
    """

    role: str
    content: str
    more: Mapping[str, Any] = field(default_factory=dict)
    learnt: bool = True

    @property
    def text(self) -> str:
        """Its words for a reader, behind them as JSON what else there is of it."""
        spelt = json.dumps(self.more, ensure_ascii=False) if self.more else ""
        return "\n".join(filter(None, (self.content, spelt)))


@dataclass(frozen=True, slots=True)
class Example:
    """One usable training sample.

    Either `messages`, or `prompt` and `response` (`prompt` is empty for plain text). given: what
    the chat template gets beside the messages: tools, and arguments of its own.
    """

    id: str
    prompt: str = ""
    response: str = ""
    messages: tuple[Message, ...] = ()
    source: str | None = None
    given: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TokenisedExample:
    """`input_ids [T]` and `labels [T]`, both int64; label -100 is not in the loss."""

    id: str
    input_ids: Ints
    labels: Ints
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Scores of n samples, one float64 column [n] per signal.

    A row that was never scored has `known` False and NaN in every column: the
    target's table is one whose `known` is mostly False.
    """

    ids: Sequence[str]
    columns: Mapping[str, Floats]
    known: Bools


@dataclass(frozen=True, slots=True)
class Rows:
    """Everything known about the n usable rows.

    rows: int64 [n], positions in the input. sources: [n], None without a source column.
    lengths: int [n], tokens, if a tokenizer counted them. scores: the small model's columns,
    float64 [n] each. target_scores: float64 [n], NaN = not scored on the target.
    untuned_scores: the same for the small model before fine-tuning, if the target's scores are
    divided by those. interpolated: bool [n], whose score was predicted from other rows, if any.
    """

    ids: Sequence[str]
    rows: Ints
    sources: Sequence[str | None] | None
    lengths: Ints | None
    scores: Mapping[str, Floats]
    target_scores: Floats
    untuned_scores: Floats | None = None
    interpolated: Bools | None = None


@dataclass(frozen=True, slots=True)
class Regions:
    """Score regions B_1..B_K of the pool, without empty ones.

    of_row: int64 [n], region of each row in score order, -1 = cut, -2 = not part of the
        selection (a row that is always or never in the coreset).
    edges: float64 [K, 2], lower and upper score edge of each region.
    """

    of_row: Ints
    edges: Floats

    @property
    def count(self) -> int:
        """K, the number of non-empty regions."""
        return len(self.edges)

    @property
    def sizes(self) -> Ints:
        """|B_i|, int64 [K]."""
        return np.bincount(self.of_row[self.of_row >= 0], minlength=self.count)


@dataclass(frozen=True, slots=True)
class Round:
    """One round of `--verify-per-region auto`: rows verified so far, and the remaining error.

    error: share of the budget expected to be in other regions than if every row were verified.
    """

    rows: int
    error: float


@dataclass(frozen=True, slots=True)
class Verification:
    """The comparison of the target's scores with the small model's, by region.

    rows: int64 [v], the rows scored on the target, sorted.
    ratio: float64 [K], V_i; NaN if a region was not verified.
    count: int64 [K], |B_i*|.
    interval: float64 [K, 2], 95 % interval of V_i; NaN if unverified, flagged, or of one row.
    flagged: bool [K], a zero or non-finite sum was replaced by ratio 1.
    rounds: one entry per round, if rows were added until the budgets were stable.
    """

    rows: Ints
    ratio: Floats
    count: Ints
    interval: Floats
    flagged: Bools
    rounds: tuple[Round, ...] = ()


@dataclass(frozen=True, slots=True)
class Budget:
    """The budgets. count: int64 [K], m_i of each region; total: m, including the top-up.

    equal: int64 [K], what m_i would be if no region had been verified; None: not worked out.
    """

    count: Ints
    total: int
    equal: Ints | None = None

    @property
    def top_up(self) -> int:
        """How many rows saturated regions and rounding leave to the random top-up."""
        return self.total - int(self.count.sum())


REASONS = ("over-budget", "budget", "top-up", "cut", "included", "excluded", "rejected")


@dataclass(frozen=True, slots=True)
class Selection:
    """A coreset.

    rows: int64 [m], sorted and unique.
    reason: int8 [n], index into REASONS; a chosen cut row (total larger than the
        pool) is "top-up".
    order: int64 [m], the rows in the order in which they were chosen, if the method has one:
        then its first rows are the coreset of a smaller total.
    """

    rows: Ints
    reason: NDArray[np.int8]
    method: str
    regions: Regions | None = None
    verification: Verification | None = None
    budget: Budget | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    order: Ints | None = None
