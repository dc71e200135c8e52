"""Selectors that rank rows by one score, and the uniform random subset as the baseline."""

from __future__ import annotations  # or help() shows all that an ArrayLike may be

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from staff.errors import ConfigError
from staff.rng import priorities
from staff.selectors.arguments import (
    as_keys,
    as_scores,
    check_at_least_one,
    check_known,
    check_total,
)
from staff.selectors.order import hardest_first, smallest_first
from staff.selectors.picks import from_order
from staff.types import Floats, Ints, Keys, Selection


def select_random(
    *, total: int, n: int | None = None, keys: ArrayLike | None = None, seed: int = 0
) -> Selection:
    """Draw `total` rows uniformly at random.

    Give n, the number of rows, or keys: [n] distinct integers, one per row; with keys the draw
    does not depend on the order of the input. A larger total adds rows to a smaller one's.

    Raises ConfigError if neither is given or total is outside [1, n], DataError if the
    two disagree.

    >>> select_random(n=3, total=3).rows
    array([0, 1, 2])
    """
    if n is None:
        if keys is None:
            raise ConfigError("select_random needs n, the number of rows, or keys")
        n = len(np.asarray(keys))
    n = check_at_least_one("n", n)
    keys = as_keys(keys, n)
    total = check_total(total, n)
    order = smallest_first(priorities(keys, seed, "random"), total)
    return from_order(order, n, method="random", details={"seed": seed})


def select_ranked(
    *, scores: ArrayLike, total: int, keys: ArrayLike | None = None, take: str = "highest"
) -> Selection:
    """Take the rows with the highest, middle or lowest scores.

    The score determines the method. GraNd and EL2N (Paul et al., NeurIPS 2021) keep the
    highest gradient norms and error norms; Marion et al. (2023) keep the highest, middle or
    lowest perplexities, of which the middle did best. Perplexity is exp(loss), so both give
    the same ranking.

    scores: [n], finite. take: "highest", "middle" (the middle rank, of two the higher score;
    then one rank below it, one above it, two below, and so on) or "lowest". keys: [n] distinct
    integers that order equal scores (smaller first). Default: positions.

    Raises DataError for unusable scores or keys, ConfigError for unusable settings.

    >>> scores = [0.1, 0.9, 0.5, 0.7]
    >>> [select_ranked(scores=scores, total=2, take=t).rows.tolist() for t in sorted(TAKE)]
    [[1, 3], [0, 2], [2, 3]]
    """
    scores = as_scores(scores)
    keys = as_keys(keys, len(scores))
    total = check_total(total, len(scores))
    check_known("take", take, TAKE)
    return from_order(
        TAKE[take](scores, keys, total), len(scores), method="ranked", details={"take": take}
    )


def _lowest(scores: Floats, keys: Keys, count: int) -> Ints:
    return hardest_first(-scores, keys, count)


def _middle(scores: Floats, keys: Keys, count: int) -> Ints:
    """Ranks a, a + 1, a - 1, …, a being the middle one (of two the higher score)."""
    n = len(scores)
    step = np.arange(1, count + 1) // 2
    rank = (n - 1) // 2 + np.where(np.arange(count) % 2 == 1, step, -step)
    return hardest_first(scores, keys, n)[rank]


TAKE: dict[str, Callable[[Floats, Keys, int], Ints]] = {
    "highest": hardest_first,
    "middle": _middle,
    "lowest": _lowest,
}
