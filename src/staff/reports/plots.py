"""Charts as SVG, drawn when the report is written.

Each chart is a Vega-Lite specification, and vl-convert (Vega in a Python wheel) turns it into
plain SVG here. So a page needs no script to show it, no 'unsafe-eval' and no bundle of a
megabyte. Colours are CSS variables of the page, so one drawing works in light and dark mode.
No text from the data enters a chart.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import vl_convert
from markupsafe import Markup
from numpy.typing import NDArray

from staff.types import Floats

Spec = dict[str, Any]

# Two drawings a chart, and CSS shows one: type in an SVG that is scaled down to a phone's
# width cannot be read.
WIDTHS = {"wide": 850, "narrow": 330}
MARGIN = 56  # of that, for the labels of the vertical axis
CONFIG = {
    "background": None,
    "font": "sans-serif",
    "view": {"stroke": None},
    "concat": {"spacing": 14},
    "axis": {
        **dict.fromkeys(("labelColor", "titleColor"), "var(--muted)"),
        **dict.fromkeys(("tickColor", "domainColor", "gridColor"), "var(--line)"),
        **{"titleFontWeight": "normal", "labelFontSize": 11, "titleFontSize": 12},
        **{"grid": False, "labelFlush": False, "labelOverlap": True},
    },
    "axisX": {"tickCount": 8},
    "axisY": {"grid": True, "domain": False, "ticks": False, "tickCount": 4, "minExtent": 32},
}
LONG_NUMBER = re.compile(r"\d+\.\d{3,}")
COORDINATES = re.compile(r'(?<= )(?:d|transform|x2|y2)="[^"]*"')


def draw(
    panels: Sequence[Spec] | Callable[[int], Sequence[Spec]], label: str, *, margin: int = MARGIN
) -> Markup:
    """Panels one above the other, in both widths; `label` says in words what they show.

    panels: where it matters to them, made for the width in pixels that `margin` leaves them.
    """
    drawings = []
    for name, outer in WIDTHS.items():
        width = outer - margin
        drawn = panels(width) if callable(panels) else panels
        spec = {
            "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
            "config": CONFIG,
            "padding": 2,
            "vconcat": [{"width": width, **panel} for panel in drawn],
        }
        svg = vl_convert.vegalite_to_svg(spec)
        svg = COORDINATES.sub(lambda match: LONG_NUMBER.sub(_shorter, match[0]), svg)
        # Its parts are named in the label, not one by one; Vega's own roles for them are dropped.
        svg = re.sub(r' (?:role|aria-\w+)="[^"]*"', "", svg)
        opening = Markup('<svg role="img" aria-label="{}" ').format(label)
        drawings.append(f'<div class="{name}">{svg.replace("<svg ", opening, 1)}</div>')
    return Markup("".join(drawings))


def _shorter(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")


def panel(height: int, *layers: Spec) -> Spec:
    """One panel of layers in common axes."""
    return {"height": height, "layer": list(layers)}


def axis(
    field: str, title: str | None, *, domain: Sequence[float] | None = None, **how: Any
) -> Spec:
    """The encoding of a number; no title: no axis is drawn for it."""
    scale = {"nice": False, "zero": False, "domain": list(domain)} if domain else {}
    drawn = None if title is None else {"title": title, **how}
    return {"field": field, "type": "quantitative", "scale": scale, "axis": drawn}


def marks(kind: str, values: Sequence[Mapping[str, float]], color: str, x: Spec, y: Spec,
          **how: Any) -> Spec:  # fmt: skip
    """A layer of one kind of mark. color: the name of a CSS variable. how: more of the mark;
    ``x2`` and ``y2`` name the field where it ends."""
    ends = {name: {"field": how.pop(name)} for name in ("x2", "y2") if name in how}
    return {
        "data": {"values": list(values)},
        "mark": {"type": kind, "color": f"var(--{color})", "aria": False, **how},
        "encoding": {"x": x, "y": y, **ends},
    }


def steps(edges: Floats, heights: NDArray[Any]) -> list[dict[str, float]]:
    """Points of a staircase over B + 1 edges: B heights, and down to 0 at the end."""
    points = zip(edges.tolist(), [*heights.tolist(), 0.0], strict=True)
    return [{"x": x, "y": y} for x, y in points]


def staircase(points: Sequence[Mapping[str, float]], color: str, x: Spec, y: Spec) -> Spec:
    """A histogram as one filled shape: one path, however many bins."""
    return marks("area", points, color, x, y, interpolate="step-after")
