"""Whether selection pays off: what it costs against what it saves.

Fine-tuning the target on n rows costs n·(ε·f + r) over ε epochs, r for reading, and its set-up;
selection costs s·n (reading, and the small model, for all rows) and v (set-up, and the target for
the rows it verifies, bounded however large n is). A coreset of k·n rows saves (1 − k)·n·(ε·f + r):
no set-up.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Worth:
    """The worth of one coreset; costs in one unit, seconds or operations.

    saved: by tuning on the coreset instead of on everything; left: of that, after selection.
    rows: from how many rows on selection pays, at these lengths; None: never. epochs: from how
    many epochs of the target on, at these rows and with the selection as it is; None where nothing
    is saved.
    """

    saved: float
    left: float
    rows: int | None
    epochs: float | None


def worth(
    *,
    keep: float,
    n: int,
    epochs: int,
    tuning: float,
    per_row: float,
    fixed: float,
    reading: float = 0.0,
    grows: bool = True,
) -> Worth:
    """Weigh a coreset of keep·n rows.

    tuning: cost of the steps of the target on all n rows over `epochs`; reading: of reading the
    rows for it. per_row: selection's cost that grows with the rows, for all n. fixed: its cost
    that does not. grows: whether the coreset does with the rows, or has always as many.

    >>> worth(keep=0.5, n=100, epochs=3, tuning=300, per_row=50, fixed=20)
    Worth(saved=150.0, left=80.0, rows=20, epochs=1.4)
    >>> worth(keep=0.5, n=100, epochs=3, tuning=300, per_row=50, fixed=20, grows=False).rows
    68
    """
    whole, part = tuning + reading, 1 - keep
    saved, selection = part * whole, per_row + fixed
    if grows:
        gained, ahead = saved - per_row, fixed
    else:
        gained, ahead = whole - per_row, fixed + keep * whole
    return Worth(
        saved=saved,
        left=saved - selection,
        rows=max(1, math.ceil(round(ahead * n / gained, 6))) if gained > 0 else None,
        epochs=max(0.0, selection - part * reading) / (part * tuning) * epochs
        if saved > 0
        else None,
    )
