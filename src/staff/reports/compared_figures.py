"""The charts of a comparison, each of one metric, from the rows of its results."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from staff.reports.compared import LOWER_IS_BETTER, METRICS, value_text
from staff.reports.intervals import intervals_figure
from staff.reports.labels import beside, room_for, spread
from staff.reports.methods import Style, dots, line, words
from staff.reports.plots import MARGIN, Spec, axis, draw, marks, panel
from staff.reports.scales import WHOLE, Domain, domain_of, scale_of

Row = Mapping[str, Any]
MAX_BANDS = 4  # more bands than this would be one grey surface
MAX_BESIDE = 7  # more names than this do not fit beside their points
MAX_SAID = 30  # rows that the words of a chart name
FEW_TICKS = {"tickCount": 5, "labelSeparation": 10}
HEIGHT = 300


def sizes_figure(rows: Sequence[Row], look: Mapping[str, Style]) -> Markup:
    """The metric by size, a line a method, with all rows and untuned as horizontal lines."""
    metric = rows[0]["metric"]
    keeps = sorted({row["keep"] for row in rows if row["keep"] is not None})
    by_method = _by_method(rows)
    domain, lines = scale_of(rows)
    step = min(0.6 / max(len(by_method), 1), 0.1)
    places = list(range(len(keeps)))
    ticks = " : ".join([*(f"datum.value == {i} ? '{keeps[i]:g}'" for i in places), "''"])
    x = axis("x", "share of rows kept", domain=[-0.5, len(keeps) - 0.5], values=places,
             labelExpr=ticks, labelOverlap=False)  # fmt: skip
    y = axis("y", METRICS[metric], domain=domain)
    band: list[Spec] = []
    whiskers: list[Spec] = []
    ends = []
    for n, (method, own) in enumerate(by_method.items()):
        aside = (n - (len(by_method) - 1) / 2) * step
        points = [_point(row, keeps.index(row["keep"]) + aside, domain) for row in own]
        band += line(points, look[method], x, y, banded=len(by_method) <= MAX_BANDS)
        whiskers += dots(points, look[method], x, y)
        ends.append((method, points[-1]))
    marked, named = _levels(lines, domain, y), _end_labels(ends, look, domain, x, y)
    return draw(
        [panel(HEIGHT, *marked, *band, *whiskers, *named)],
        _values_label(rows, f"{METRICS[metric]} by share of rows kept"),
        margin=MARGIN + room_for(by_method),
    )


def means_figure(rows: Sequence[Row], look: Mapping[str, Style]) -> Markup:
    """The metric of one size: a line of text a method, with all rows and untuned as verticals."""
    domain, lines = scale_of(rows)
    metric = rows[0]["metric"]
    own = [row for row in rows if row["keep"] is not None]
    x = axis("x", METRICS[metric], domain=domain, **FEW_TICKS)
    label = _values_label(rows, f"{METRICS[metric]} at keep {own[0]['keep']:g}")
    return intervals_figure(own, look, x, domain, label, references=lines)


def differences_figure(rows: Sequence[Row], look: Mapping[str, Style]) -> Markup:
    """Paired differences to random with their intervals; better is to the right."""
    metric = rows[0]["metric"]
    own = [row for one in _by_method(rows).values() for row in one
           if row["random_difference"] is not None]  # fmt: skip
    values = [row["random_difference"] for row in own]
    domain = domain_of([*values, 0.0], [(row["random_low"], row["random_high"]) for row in own])
    x = axis("x", "← worse than random · better →", domain=domain, **FEW_TICKS)
    if metric in LOWER_IS_BETTER:
        x["scale"]["reverse"] = True
    said = [
        f"{_named(row)}: {value_text(metric, row['random_difference'], signed=True)}, "
        f"{row['random_verdict']}"
        for row in own
    ]
    label = _label(f"{METRICS[metric]}, differences from random", said)
    return intervals_figure(
        own, look, x, domain, label, difference_to="random", references={"random": 0.0}
    )


def cost_figure(rows: Sequence[Row], look: Mapping[str, Style]) -> Markup:
    """The metric against the measured seconds of selection and tuning, small sizes to large."""
    metric = rows[0]["metric"]
    domain, lines = scale_of(rows)
    by_method = _by_method(row for row in rows if row["tuning_seconds"] is not None)
    longest = max((_seconds(row) for row in rows), default=1.0) or 1.0
    unit, per = next(u for u in (("hours", 3600), ("minutes", 60), ("seconds", 1))
                     if longest >= 3 * u[1] or u[1] == 1)  # fmt: skip
    span = Domain(0.0, 1.2 * longest / per)  # room for a name
    x = axis("x", f"{unit} of selection and tuning", domain=span, **FEW_TICKS)
    y = axis("y", METRICS[metric], domain=domain)
    layers: list[Spec] = []
    ends, others = [], []
    for method, own in by_method.items():
        points = [_point(row, _seconds(row) / per, domain) for row in own]
        layers += line(points, look[method], x, y, banded=False)
        layers += dots(points, look[method], x, y)
        ends.append((method, points[-1]))
        others += [*points[:-1], *_between(points)]
    for row in rows:
        if row["method"] == "full" and domain.holds(row["value"]):
            end = _point(row, _seconds(row) / per, domain)
            look = {**look, WHOLE["full"]: Style("muted", "square", [1, 0])}
            layers += dots([end], look[WHOLE["full"]], x, y)
            ends.append((WHOLE["full"], end))
    levels = {  # all rows is a point, unless that would lie far off
        name: value
        for name, value in lines.items()
        if name == WHOLE["untuned"] or not domain.holds(value)
    }
    crowded = len(ends) > MAX_BESIDE

    def panels(width: int) -> list[Spec]:
        if crowded:
            named = _end_labels(ends, look, domain, x, y)
        else:
            named = _labels_beside(ends, others, look, width, span, domain)
        return [panel(HEIGHT, *_levels(levels, domain, y), *layers, *named)]

    said = [
        f"{_named(row)}: {_seconds(row):.3g} seconds, {value_text(metric, row['value'])}"
        for row in rows
        if row["tuning_seconds"] is not None
    ]
    label = _label(f"{METRICS[metric]} against seconds of selection and tuning", said)
    return draw(panels, label, margin=MARGIN + room_for(name for name, _ in ends) * crowded)


def _end_labels(
    ends: Sequence[tuple[str, Mapping[str, float]]],
    look: Mapping[str, Style],
    domain: Domain,
    x: Spec,
    y: Spec,
) -> list[Spec]:
    """The names of methods at the right, each with a hair line from its last point."""
    layers = []
    wished = [HEIGHT * (1 - domain.share(end["y"])) for _, end in ends]
    heights = spread(wished, top=0, bottom=HEIGHT)
    for (method, end), height in zip(ends, heights, strict=True):
        color = look[method].color
        hair = marks("rule", [dict(end)], color, x, y, opacity=0.5, strokeWidth=0.75)
        hair["encoding"] |= {"x2": {"value": "width"}, "y2": {"value": height}}
        name = words([{"y": height}], method, color, {"value": "width"}, _pixels("y"), dx=5)
        layers += [hair, *name]
    return layers


def _labels_beside(
    ends: Sequence[tuple[str, Mapping[str, float]]],
    others: Sequence[Mapping[str, float]],
    look: Mapping[str, Style],
    width: int,
    across: Domain,
    up: Domain,
) -> list[Spec]:
    """The names of methods beside their last points, where a chart of this width has room."""

    def place(point: Mapping[str, float]) -> tuple[float, float]:
        return width * across.share(point["x"]), HEIGHT * (1 - up.share(point["y"]))

    names, points = [name for name, _ in ends], [place(end) for _, end in ends]
    places = beside(points, names, [place(p) for p in others], width=width, height=HEIGHT)
    layers: list[Spec] = []
    for name, (left, height) in zip(names, places, strict=True):
        at = [{"x": left, "y": height}]
        layers += words(at, name, look[name].color, _pixels("x"), _pixels("y"))
    return layers


def _levels(lines: Mapping[str, float], domain: Domain, y: Spec) -> list[Spec]:
    """Horizontal lines with their names; of lines that lie far off only that, above the chart."""
    layers: list[Spec] = []
    near = {name: value for name, value in lines.items() if domain.holds(value)}
    wished = [HEIGHT * (1 - domain.share(value)) - 8 for value in near.values()]
    heights = spread(wished, top=0, bottom=HEIGHT - 8)
    for (name, value), height in zip(near.items(), heights, strict=True):
        layers.append(marks("rule", [{"y": value}], "muted", {}, y, strokeDash=[4, 3]))
        layers += words([{"y": height}], name, "muted", {"value": 0}, _pixels("y"), dx=6)
    if far := [
        f"{name} {value:.3g} {'↑' if value > domain.high else '↓'}"
        for name, value in lines.items()
        if name not in near
    ]:
        layers += words([{}], " · ".join(far), "muted", {"value": 0}, {"value": -10}, dx=6)
    return layers


def _between(points: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Places on the line through the points, close enough to keep words off it."""
    return [
        {axis: a[axis] + (b[axis] - a[axis]) * part / 8 for axis in ("x", "y")}
        for a, b in pairwise(points)
        for part in range(1, 8)
    ]


def _pixels(field: str) -> Spec:
    return {"field": field, "type": "quantitative", "scale": None, "axis": None}


def _by_method(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The methods' rows, small sizes first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["keep"] is not None:
            found.setdefault(row["method"], []).append(row)
    return {method: sorted(own, key=lambda row: row["keep"]) for method, own in found.items()}


def _point(row: Row, x: float, domain: Domain) -> dict[str, float]:
    value = row["value"]
    low, high = (value if row[end] is None else row[end] for end in ("low", "high"))
    return {"x": x, "y": value, "low": domain.clip(low), "high": domain.clip(high)}


def _seconds(row: Row) -> float:
    return (row["selection_seconds"] or 0.0) + (row["tuning_seconds"] or 0.0)


def _values_label(rows: Sequence[Row], title: str) -> str:
    metric = rows[0]["metric"]
    return _label(title, [f"{_named(row)}: {value_text(metric, row['value'])}" for row in rows])


def _named(row: Row) -> str:
    name = WHOLE.get(row["method"]) or str(row["method"])
    return name if row["keep"] is None else f"{name} {row['keep']:g}"


def _label(title: str, said: Sequence[str]) -> str:
    """A chart in words, no more than one can listen to."""
    more = len(said) - MAX_SAID
    rest = [f"and {more} more in the table"] if more > 0 else []
    return f"{title}. {'; '.join([*said[:MAX_SAID], *rest])}"
