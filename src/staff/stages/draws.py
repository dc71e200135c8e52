"""The rows drawn for a stage: by their ids and the seed, whatever their order."""

import numpy as np

from staff.data.store import TokenStore
from staff.rng import keys_of_ids, priorities
from staff.selectors.arguments import count_of
from staff.selectors.order import smallest
from staff.training.tokens import Part, Tokens
from staff.types import Ints, read_only


def sample(store: TokenStore, share: float, *, seed: int) -> Tokens:
    """A random ⌊share·n⌋ of the stored rows, at least one; the store itself if that is all."""
    rows = drawn(store, share, seed=seed, stream="fine-tune on")
    return store if len(rows) == len(store) else Part(store, rows)


def rows_to_score(store: TokenStore, share: float, *, seed: int) -> Ints:
    """Positions of the rows that ``--score-on`` has scored, ascending."""
    return drawn(store, share, seed=seed, stream="score on")


def check_score_on(share: float, n: int) -> None:
    """Raise `DataError` if of n rows too few are scored to tell the others' scores from."""
    from staff.scores.interpolate import check_enough

    count = count_drawn(share, n)
    if count < n:
        check_enough(count)


def count_drawn(share: float, n: int) -> int:
    """⌊share·n⌋, at least one."""
    return max(1, count_of(share, n))


def drawn(store: TokenStore, share: float, *, seed: int, stream: str) -> Ints:
    """Positions of a random ⌊share·n⌋ of the stored rows, at least one; ascending."""
    count = count_drawn(share, len(store))
    if count == len(store):
        return read_only(np.arange(count))
    return _first(store, count, seed=seed, stream=stream)


def some(store: TokenStore, count: int, *, seed: int) -> Ints:
    """Positions of `count` random rows of the store, of all if it has no more; ascending."""
    return _first(store, min(count, len(store)), seed=seed, stream="check")


def _first(store: TokenStore, count: int, *, seed: int, stream: str) -> Ints:
    order = priorities(keys_of_ids(store.ids, seed), seed, stream)
    return read_only(np.sort(smallest(order, count)))
