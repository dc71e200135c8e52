"""Axes of a comparison's charts: wide enough for every value, not for every interval."""

from collections.abc import Mapping, Sequence
from math import inf
from statistics import median
from typing import Any, NamedTuple

Row = Mapping[str, Any]
WHOLE = {"full": "all rows", "untuned": "untuned"}  # what has no size
POSSIBLE = {"loss": (0.0, inf), "rougeL": (0.0, 100.0), "bleu": (0.0, 100.0), "exact": (0.0, 1.0)}
ROOM = 2  # a value's interval is cut off so many times the middle interval's width away


class Domain(NamedTuple):
    """Ends of an axis of values."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether a value lies on the axis."""
        return self.low <= value <= self.high

    def clip(self, value: float) -> float:
        """The value, or the end beyond which it lies."""
        return min(max(value, self.low), self.high)

    def share(self, value: float) -> float:
        """Where a value is: 0 at the low end, 1 at the high one."""
        return (value - self.low) / (self.high - self.low)


def scale_of(rows: Sequence[Row]) -> tuple[Domain, dict[str, float]]:
    """An axis for one metric's values, and what all rows and untuned have of it.

    The axis is stretched for these two where they are near, and holds no impossible values,
    though an interval over few seeds may.
    """
    own = [row for row in rows if row["keep"] is not None]
    domain = domain_of([row["value"] for row in own], [(row["low"], row["high"]) for row in own])
    lines = {WHOLE[row["method"]]: row["value"] for row in rows if row["method"] in WHOLE}
    width = domain.high - domain.low
    near = [v for v in lines.values() if domain.low - width <= v <= domain.high + width]
    edge = 0.06 * width
    low = min([domain.low, *(value - edge for value in near)])
    high = max([domain.high, *(value + edge for value in near)])
    least, most = POSSIBLE.get(rows[0]["metric"], (-inf, inf))
    return Domain(max(low, least), min(high, most)), lines


def domain_of(
    values: Sequence[float], intervals: Sequence[tuple[float | None, float | None]]
) -> Domain:
    """Ends that hold every value, and every interval but the few that dwarf the others."""
    known = [(low, high) for low, high in intervals if low is not None and high is not None]
    room = ROOM * median(high - low for low, high in known) if known else 0.0
    room = max(room, (max(values) - min(values)) / 4) or abs(values[0]) / 10 or 1.0
    low = max(min([*values, *(low for low, _ in known)]), min(values) - room)
    high = min(max([*values, *(high for _, high in known)]), max(values) + room)
    edge = 0.04 * (high - low) or room
    return Domain(low - edge, high + edge)
