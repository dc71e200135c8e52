"""How methods are drawn in a comparison's charts.

A method has the same colour, mark and dashes in every chart, and each of them identifies it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from staff.reports.plots import Spec, marks

COLORS = ("method-1", "method-2", "method-3", "method-4", "method-5")
SHAPES = ("square", "triangle-up", "diamond", "triangle-down", "triangle-right", "triangle-left")
DASHES = ([6, 3], [2, 2], [8, 3, 2, 3], [12, 4], [4, 4])


@dataclass(frozen=True, slots=True)
class Style:
    """How one method is drawn."""

    color: str
    shape: str
    dash: Sequence[int]


def styles(methods: Sequence[str]) -> dict[str, Style]:
    """The look of every method: STAFF's and random's are their own."""
    fixed = {"staff": Style("staff", "circle", [1, 0]), "random": Style("ink", "cross", [3, 3])}
    others = [method for method in methods if method not in fixed]
    return fixed | {
        method: Style(COLORS[i % 5], SHAPES[i % 6], DASHES[(i + i // 5) % 5])
        for i, method in enumerate(others)
    }


def line(
    points: Sequence[Mapping[str, float]], style: Style, x: Spec, y: Spec, *, banded: bool
) -> list[Spec]:
    """One method's line over the sizes, and its intervals as a band."""
    if len(points) < 2:
        return []
    drawn = marks("line", points, style.color, x, y, strokeDash=list(style.dash), strokeWidth=1.75)
    if not banded:
        return [drawn]
    band = marks("area", points, style.color, x, {**y, "field": "low"}, y2="high", opacity=0.12)
    return [band, drawn]


def dots(points: Sequence[Mapping[str, float]], style: Style, x: Spec, y: Spec) -> list[Spec]:
    """Marks with their intervals."""
    return [
        marks("rule", points, style.color, x, {**y, "field": "low"}, y2="high", opacity=0.7,
              strokeWidth=1.25),
        marks("point", points, style.color, x, y, shape=style.shape, filled=True, opacity=1,
              size=60),
    ]  # fmt: skip


def words(
    values: Sequence[Mapping[str, float]], said: str, color: str, x: Spec, y: Spec, **how: Any
) -> list[Spec]:
    """Words of the program, never of the data, on a rim of paper that keeps lines off them."""
    how = {"align": "left", "baseline": "middle", "fontSize": 12, **how, "text": said}
    rim = {"stroke": "var(--paper)", "strokeWidth": 3, "strokeOpacity": 0.85}
    return [marks("text", values, "paper", x, y, **how, **rim),
            marks("text", values, color, x, y, **how)]  # fmt: skip
