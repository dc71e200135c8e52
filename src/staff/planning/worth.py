"""Whether selection pays off: what it costs against what it saves.

Fine-tuning the target on n rows costs ε·n·f over ε epochs; selection costs s·n (the small model,
for all rows) and v (the target, for the rows it verifies, bounded however large n is). A coreset
of k·n rows saves (1 − k)·ε·n·f.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Worth:
    """The worth of one coreset; costs in one unit, seconds or operations.

    saved: by tuning on the coreset instead of on everything; left: of that, after selection.
    rows: from how many rows on selection pays, at these lengths; None: never. epochs: from how
    many epochs of the target on, at these rows; None where nothing is saved.
    """

    saved: float
    left: float
    rows: int | None
    epochs: float | None


def worth(
    *, keep: float, n: int, epochs: int, tuning: float, per_row: float, fixed: float
) -> Worth:
    """Weigh a coreset of keep·n rows.

    tuning: cost of the target on all n rows over `epochs`. per_row: selection's cost that grows
    with the rows, for all n. fixed: its cost that does not.

    >>> worth(keep=0.5, n=100, epochs=3, tuning=300, per_row=50, fixed=20)
    Worth(saved=150.0, left=80.0, rows=20, epochs=1.4)
    """
    saved = (1 - keep) * tuning
    gained = (saved - per_row) / n  # by one row more
    selection = per_row + fixed
    return Worth(
        saved=saved,
        left=saved - selection,
        rows=math.ceil(round(fixed / gained, 6)) if gained > 0 else None,
        epochs=selection / saved * epochs if saved > 0 else None,
    )
