"""What training and evaluation need of a token store."""

from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from staff.types import TokenisedExample


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
