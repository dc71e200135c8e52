"""A coreset from an order of rows: the last step of selectors without regions."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from staff.selectors.draw import BUDGET, CUT, OVER_BUDGET, TOP_UP
from staff.types import Bools, Ints, Selection, read_only


def from_order(
    order: Ints,
    n: int,
    *,
    method: str,
    cut: Bools | None = None,
    details: Mapping[str, Any] | None = None,
) -> Selection:
    """The `Selection` of rows int64 [m] in the order they were chosen, out of n.

    cut: bool [n], rows the method set aside; one chosen all the same is a top-up.
    """
    cut = np.zeros(n, np.bool_) if cut is None else cut
    reason = np.where(cut, CUT, OVER_BUDGET).astype(np.int8)  # [n]
    reason[order] = np.where(cut[order], TOP_UP, BUDGET)
    return Selection(
        rows=read_only(np.sort(order)),
        reason=read_only(reason),
        method=method,
        details=dict(details or {}),
        order=read_only(order),
    )


def first(selection: Selection, total: int) -> Selection:
    """The coreset of the first `total` rows of a selection that has an order.

    >>> first(from_order(np.array([2, 0, 1]), 3, method="x"), 2).rows
    array([0, 2])
    """
    assert selection.order is not None
    dropped = selection.order[total:]
    reason = selection.reason.copy()
    reason[dropped] = np.where(reason[dropped] == TOP_UP, CUT, OVER_BUDGET)
    return Selection(
        rows=read_only(np.sort(selection.order[:total])),
        reason=read_only(reason),
        method=selection.method,
        details=selection.details,
        order=read_only(selection.order[:total]),
    )
