"""Values with their intervals, one line each, with names at the left."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from staff.reports.labels import room_for
from staff.reports.methods import Style, words
from staff.reports.plots import Spec, draw, marks, panel
from staff.reports.scales import Domain

Row = Mapping[str, Any]
PITCH = 19  # pixels from line to line
SIZES, VERDICTS, EDGE = 28, 36, 12  # room at the sides, beside that for names


def intervals_figure(
    rows: Sequence[Row],
    look: Mapping[str, Style],
    x: Spec,
    domain: Domain,
    label: str,
    *,
    references: Mapping[str, float],
    difference_to: str = "",
) -> Markup:
    """A line a row: method and size, the point with its interval, and of a difference the verdict.

    references: name -> value of vertical lines. difference_to: random, or nothing for the values.
    """
    named = room_for(row["method"] for row in rows)
    count, prefix = len(rows), f"{difference_to}_" if difference_to else ""
    y = {"field": "row", "type": "quantitative", "axis": None,
         "scale": {"domain": [-0.5, count - 0.5], "reverse": True, "nice": False}}  # fmt: skip
    sizes = len({row["keep"] for row in rows}) > 1
    left, right = {"value": 0}, {"value": "width"}
    groups = [{"row": i - 0.5} for i in range(1, count) if _begins(rows, i)]
    layers = [
        marks("rule", groups if sizes else [], "line", {}, y),
        *_references(references, domain, x),
    ]
    for i, row in enumerate(rows):
        told = not prefix or row[f"{prefix}verdict"] != "tie"
        layers += _line(row, i, prefix, look[row["method"]], x, y, domain, filled=told)
        at = [{"row": i}]
        if _begins(rows, i):
            layers += words(at, row["method"], "ink", left, y, dx=-named - SIZES * sizes)
        if sizes:
            layers += words(at, f"{row['keep']:g}", "muted", left, y, dx=-8, align="right")
        if prefix:
            verdict = row[f"{prefix}verdict"]
            layers += words(at, verdict, "ink" if told else "muted", right, y, dx=8)
    margin = named + SIZES * sizes + (VERDICTS if prefix else 0) + EDGE
    return draw([panel(PITCH * count, *layers)], label, margin=margin)


def _line(
    row: Row, i: int, prefix: str, style: Style, x: Spec, y: Spec, domain: Domain, *, filled: bool
) -> list[Spec]:
    """A point with its interval; an arrow head where the interval goes on beyond the chart."""
    value = row[f"{prefix}difference" if prefix else "value"]
    ends = [value if row[prefix + end] is None else row[prefix + end] for end in ("low", "high")]
    low, high = map(domain.clip, ends)
    point = [{"row": i, "x": value, "low": low, "high": high}]
    layers = [
        marks("rule", point, style.color, {**x, "field": "low"}, y, x2="high", strokeWidth=1.5),
        marks("point", point, style.color, x, y, shape=style.shape, opacity=1, size=60,
              filled=True, fill=f"var(--{style.color if filled else 'paper'})",
              stroke=f"var(--{style.color})", strokeWidth=1.5),
    ]  # fmt: skip
    for end, shown, head in ((ends[0], low, "‹›"), (ends[1], high, "›‹")):
        if end != shown:
            arrow = head[bool(x["scale"].get("reverse"))]
            at = [{"row": i, "x": shown}]
            layers += words(at, arrow, style.color, x, y, align="center", fontSize=15)
    return layers


def _references(references: Mapping[str, float], domain: Domain, x: Spec) -> list[Spec]:
    """Vertical lines, named above the chart; of lines that lie far off the name alone."""
    layers: list[Spec] = []
    reverse = bool(x["scale"].get("reverse"))
    for n, (name, value) in enumerate(references.items()):
        if domain.holds(value):
            layers.append(marks("rule", [{"x": value}], "muted", x, {}, strokeDash=[4, 3]))
        else:
            name = f"{name} {value:.3g} {'→' if value > domain.high else '←'}"
        if name:
            at = [{"x": domain.clip(value)}]
            high = {"value": -8 - 14 * n}
            share = domain.share(value)
            layers += words(
                at, name, "muted", x, high, align=_align(1 - share if reverse else share)
            )
    return layers


def _align(share: float) -> str:
    """Words near an end of the axis stand within it."""
    if share < 0.15:
        return "left"
    return "right" if share > 0.85 else "center"


def _begins(rows: Sequence[Row], i: int) -> bool:
    return i == 0 or rows[i]["method"] != rows[i - 1]["method"]
