"""IFD, instruction-following difficulty (Li et al., NAACL 2024)."""

from __future__ import annotations  # or help() shows all that an ArrayLike may be

import numpy as np
from numpy.typing import ArrayLike

from staff.errors import DataError
from staff.selectors.arguments import as_keys, as_scores, check_total
from staff.selectors.order import hardest_first
from staff.selectors.picks import from_order
from staff.types import Floats, Selection


def select_ifd(
    *,
    scores: ArrayLike,
    unconditioned: ArrayLike,
    total: int,
    keys: ArrayLike | None = None,
) -> Selection:
    """Take the highest ratios loss(response | prompt) / loss(response), up to 1.

    A high ratio means that the prompt helps little in predicting the response: there is
    something to learn. Above 1 the prompt misleads, so such rows are first dropped as
    mismatched. A total larger than what is left takes all of it, then the lowest ratios of
    the dropped rows.

    scores: [n], the loss of each response given its prompt. unconditioned: [n], its loss
    without the prompt, > 0. keys: [n] distinct integers that order equal ratios (smaller
    first). Default: positions.

    Superfiltering (Li et al., ACL 2024) uses a smaller model and the same ratio of
    perplexities: the same rows exceed 1.

    Raises DataError for unusable scores or keys, ConfigError for a total outside [1, n].

    >>> select_ifd(scores=[1.0, 3.0, 1.5, 5.0], unconditioned=[2, 4, 3, 4], total=2).order
    array([1, 0])
    """
    ratio = ifd(scores, unconditioned)
    n = len(ratio)
    keys = as_keys(keys, n)
    total = check_total(total, n)
    above = ratio > 1
    in_pool = min(total, n - int(np.count_nonzero(above)))
    order = [
        rows[hardest_first(value[rows], keys[rows], count)]
        for rows, value, count in (
            (np.flatnonzero(~above), ratio, in_pool),
            (np.flatnonzero(above), -ratio, total - in_pool),
        )
    ]
    return from_order(np.concatenate(order), n, method="ifd", cut=above)


def ifd(conditioned: ArrayLike, unconditioned: ArrayLike) -> Floats:
    """IFD ratios float64 [n] of two losses [n]; DataError unless finite and the second > 0."""
    loss = as_scores(conditioned)
    alone = as_scores(unconditioned, name="unconditioned losses")
    if alone.shape != loss.shape:
        raise DataError(f"IFD needs two losses per row; got {loss.shape} and {alone.shape}")
    bad = np.flatnonzero(alone <= 0)
    if len(bad):
        raise DataError(f"the unconditioned loss of row {bad[0]} is {alone[bad[0]]}, not above 0")
    return loss / alone
