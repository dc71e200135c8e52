"""From finished cells to a table: means, intervals, paired differences, costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from staff.compare.statistics import Estimate, estimate, verdict
from staff.errors import RunError
from staff.reports.compared import LOWER_IS_BETTER
from staff.runs.compare_cells import FULL
from staff.training.metrics import MOST, bleu_counts
from staff.training.statistics import Interval, wilson
from staff.types import Floats

YARDSTICK = "random"
OURS = "staff"  # the baselines are the other selectors


@dataclass(frozen=True, slots=True)
class Group:
    """The cells of one method and size, one a seed, in the order of the seeds.

    selection_seconds: mean over seeds; None where nothing was selected.
    """

    method: str
    keep: str | None
    cells: Sequence[Mapping[str, Any]]
    folders: Sequence[Path]
    selection_seconds: float | None = None

    @property
    def tuning_seconds(self) -> float | None:
        """Mean over seeds; None for the untuned target."""
        spent = [cell["tuning"]["seconds"] for cell in self.cells if cell["tuning"]]
        return fmean(spent) if spent else None


def results(groups: Sequence[Group], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """One row a metric, method and size; what docs/formats.md says of results.parquet.

    Raises RunError when cells are not of the same test items.
    """
    if not groups:
        return []
    place = groups[0].folders[0]
    like = place, pq.read_table(place / "items.parquet", columns=["id"])["id"]
    full = next((group.tuning_seconds for group in groups if group.method == FULL), None)
    rows = []
    for metric in metrics:
        found = [estimate(_values(group, metric, like=like)) for group in groups]
        smaller = metric in LOWER_IS_BETTER
        for group, one in zip(groups, found, strict=True):
            value, low, high = _known(interval_of(one, metric))
            row = {
                "metric": metric,
                "method": group.method,
                "keep": None if group.keep is None else float(group.keep),
                "rows": min((c["tuning"]["rows"] for c in group.cells if c["tuning"]), default=0),
                "seeds": len(group.cells),
                "items": group.cells[0]["test"]["rows"],
                "value": value,
                "low": low,
                "high": high,
            }
            rivals = {
                g.method: e
                for g, e in zip(groups, found, strict=True)
                if group.keep and g.keep == group.keep and g.method not in (OURS, group.method)
            }
            best = _best(rivals, smaller=smaller, against=None if group.method == OURS else one)
            row |= _difference("random", one, rivals.get(YARDSTICK), smaller=smaller)
            row["best"] = best
            row |= _difference("best", one, rivals[best] if best else None, smaller=smaller)
            row["selection_seconds"] = group.selection_seconds
            row["tuning_seconds"] = group.tuning_seconds
            row["selection_to_tuning"] = (
                group.selection_seconds / full if full and group.selection_seconds else None
            )
            rows.append(row)
    return rows


def _best(rivals: Mapping[str, Estimate], *, smaller: bool, against: Estimate | None) -> str | None:
    """The baseline with the best mean; none for a method that is the best baseline itself."""
    sign = 1 if smaller else -1
    if not rivals:
        return None
    best = min(rivals, key=lambda name: sign * rivals[name].value)
    if against is not None and sign * against.value <= sign * rivals[best].value:
        return None
    return best


def _difference(
    name: str, one: Estimate, other: Estimate | None, *, smaller: bool
) -> dict[str, Any]:
    """The columns of a paired difference, null where there is nothing to compare with."""
    parts = ("difference", "low", "high", "verdict")
    if other is None:
        return {f"{name}_{part}": None for part in parts}
    found = (one - other).interval()
    values = (*_known(found), verdict(found, smaller_is_better=smaller))
    return {f"{name}_{part}": value for part, value in zip(parts, values, strict=True)}


def interval_of(one: Estimate, metric: str) -> Interval:
    """The value and its interval, within what the metric can be.

    Student's t knows no bounds: over three seeds its interval of a share near 0 begins below it. To
    leave out what cannot be does not change how often the interval contains the truth. That of a
    share of exact matches is no shorter than its items allow: where no answer is right resampling
    sees no chance in that.
    """
    found = one.interval()
    if one.items < 2:
        return found
    least = wilson(one.value, one.items) if metric == "exact" else found
    low, high = min(found.low, least.low), max(found.high, least.high)
    return Interval(found.mean, max(0.0, low), min(MOST.get(metric, inf), high))


def _known(found: Interval) -> tuple[float | None, ...]:
    """The value and the ends of its interval, None where there is none: of one test item."""
    return tuple(end if isfinite(end) else None for end in found)


def _values(group: Group, metric: str, *, like: tuple[Path, Any]) -> Floats:
    """One metric of every seed and item: [S, n], for BLEU its counts [S, n, 10].

    like: a cell and its items, which all others are to have, or their values would not be paired.
    """
    names = ["id", "prediction", "reference"] if metric == "bleu" else ["id", metric]
    tables = [pq.read_table(folder / "items.parquet", columns=names) for folder in group.folders]
    first, wanted = like
    for folder, table in zip(group.folders, tables, strict=True):
        if not table["id"].equals(wanted):
            raise RunError(
                f"{folder} and {first} contain different test items: remove both and run the same "
                "command again"
            )
    if metric == "bleu":
        return np.array(
            [bleu_counts(t["prediction"].to_pylist(), t["reference"].to_pylist()) for t in tables]
        )
    return np.array([table[metric].to_numpy() for table in tables])
