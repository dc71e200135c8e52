"""What training and evaluation need from a token store."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from staff.types import Ints, TokenisedExample


class Tokens(Protocol):
    """Tokenised rows that are read when needed; `data.store.TokenStore` is one."""

    @property
    def ids(self) -> Sequence[str]:
        """The rows' stable ids, n of them."""

    @property
    def lengths(self) -> NDArray[Any]:
        """Tokens in each row, integers [n]."""

    @property
    def response_lengths(self) -> NDArray[Any]:
        """Tokens of each row that are in the loss, integers [n]."""

    def get(self, positions: Any) -> list[TokenisedExample]:
        """Read the rows at the given positions, in that order."""


class Part:
    """The rows of other tokens at `positions` [m], in that order."""

    def __init__(self, whole: Tokens, positions: Ints) -> None:
        self.whole, self.positions = whole, positions
        self.ids = [whole.ids[position] for position in positions.tolist()]
        self.lengths = whole.lengths[positions]
        self.response_lengths = whole.response_lengths[positions]

    def get(self, positions: Any) -> list[TokenisedExample]:
        """Read the rows at the given positions of this part, in that order."""
        return self.whole.get(self.positions[np.asarray(positions, np.int64)])
