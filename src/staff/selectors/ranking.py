"""Selectors that need no regions. So far: the uniform random subset, the yardstick."""

import numpy as np
from numpy.typing import ArrayLike

from staff.errors import ConfigError
from staff.rng import priorities
from staff.selectors.arguments import as_keys, check_total
from staff.selectors.draw import BUDGET, OVER_BUDGET
from staff.selectors.order import smallest
from staff.types import Selection, read_only


def select_random(
    *, total: int, n: int | None = None, keys: ArrayLike | None = None, seed: int = 0
) -> Selection:
    """Draw `total` rows uniformly at random.

    n: number of rows, or keys: [n] distinct integers, one a row; with keys the draw does
    not depend on the order of the input. A larger total adds rows to a smaller one's.

    Raises ConfigError if neither is given or total is outside [1, n], DataError if the
    two disagree.

    >>> select_random(n=3, total=3).rows
    array([0, 1, 2])
    """
    if n is None:
        if keys is None:
            raise ConfigError("select_random needs n, the number of rows, or keys")
        n = len(np.asarray(keys))
    keys = as_keys(keys, n)
    total = check_total(total, n)
    rows = smallest(priorities(keys, seed, "random"), total)
    reason = np.full(n, OVER_BUDGET, dtype=np.int8)  # [n]
    reason[rows] = BUDGET
    return Selection(
        rows=read_only(rows), reason=read_only(reason), method="random", details={"seed": seed}
    )
