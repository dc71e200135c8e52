"""The charts of a run, each from a manifest and a few counts."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup

from staff.reports.bins import Bins
from staff.reports.numbers import duration, significant
from staff.reports.plots import Spec, axis, draw, marks, panel, staircase, steps
from staff.selectors.agreement import Correlation
from staff.types import Floats, Ints
from staff.words import rows_of

MAX_EDGES = 60  # more region edges than this would be one grey surface
MAX_RATIOS = 100


def selection_figure(
    bins: Bins, manifest: Mapping[str, Any], name: str, chosen: Ints, *, title: str
) -> Markup:
    """One coreset over the axis of scores: all rows and chosen ones, V_i, chosen by region.

    bins: with the groups "uncut", "cut" and "chosen". chosen: rows of each region, int64 [K].
    title: of the axis, what regions are made of.
    """
    regions, cut = manifest["regions"], manifest["cut"]
    domain = [float(bins.edges[0]), float(bins.edges[-1])]
    edges = sorted({r["lower"] for r in regions} | {r["upper"] for r in regions})
    shown = [{"x": edge} for edge in edges] if len(edges) <= MAX_EDGES else []

    x, bottom = axis("x", None, domain=domain), axis("x", title, domain=domain)

    def on_grid(height: int, x: Spec, *layers: Spec) -> Spec:
        return panel(height, marks("rule", shown, "grid", x, {}), *layers)

    counts = on_grid(150, x, *_count_layers(bins, x, cut["threshold"] if cut["rows"] else None))
    over_regions = partial(_over_regions, regions, least=float(bins.edges[0]))
    budgets = np.array([region["budgets"].get(name, 0) for region in regions])
    drawn = _count_axis("chosen rows", chosen)
    taken = on_grid(
        90,
        bottom,
        staircase(over_regions(chosen), "top-up", bottom, drawn),
        staircase(over_regions(np.minimum(budgets, chosen)), "chosen", bottom, drawn),
    )
    ratios = _ratio_layers(regions, x)
    panels = [counts, on_grid(110, x, *ratios), taken] if ratios else [counts, taken]
    label = (
        f"Scores of all rows and of coreset {name}, from {significant(domain[0])} to "
        f"{significant(domain[1])}, in {len(regions)} regions; the table of regions has the numbers"
    )
    return draw(panels, label)


def scores_figure(bins: Bins, name: str, *, title: str, threshold: float | None) -> Markup:
    """One coreset over the axis of scores, without regions: all rows, and the chosen ones again.

    bins: with the groups "uncut", "cut" and "chosen". title: of the axis. threshold: above it the
    method drops rows, if there is such a score.
    """
    domain = [float(bins.edges[0]), float(bins.edges[-1])]
    x, bottom = axis("x", None, domain=domain), axis("x", title, domain=domain)
    chosen = bins.counts["chosen"]
    y = _count_axis("chosen rows", chosen)
    taken = staircase(steps(bins.edges, chosen), "chosen", bottom, y)
    label = (
        f"{title}: all rows and coreset {name}, from {significant(domain[0])} to "
        f"{significant(domain[1])}; the table of medians has the numbers"
    )
    return draw([panel(150, *_count_layers(bins, x, threshold)), panel(90, taken)], label)


def _count_axis(title: str, counts: Ints) -> Spec:
    """A vertical axis of rows; of few, ticks would be at halves as well."""
    most = int(counts.max(initial=0))
    few: Spec = {"values": list(range(most + 1)), "format": "d"}
    return axis("y", title, **(few if most < 5 else {}))


def _count_layers(bins: Bins, x: Spec, threshold: float | None) -> list[Spec]:
    """All rows, cut ones and chosen ones by score, and the threshold of the cut as a line."""
    # The cut is drawn from above the others' counts: in the bin of the cut both may have rows.
    uncut, both = bins.counts["uncut"], bins.counts["uncut"] + bins.counts["cut"]
    rows = _count_axis("rows", both)
    line = [] if threshold is None else [{"x": threshold}]
    return [
        staircase(steps(bins.edges, both), "cut", x, rows),
        staircase(steps(bins.edges, uncut), "all", x, rows),
        staircase(steps(bins.edges, bins.counts["chosen"]), "chosen", x, rows),
        marks("rule", line, "cut-line", x, {}, strokeWidth=1.5),
    ]


def _ratio_layers(regions: Sequence[Mapping[str, Any]], x: Spec) -> list[Spec]:
    """V_i of the verified regions with intervals, and the mean V_i as a line."""
    known = [r for r in regions if r["ratio"] is not None]
    if not known:
        return []
    values = np.array([r["ratio"] for r in known])
    # One interval from two or three rows can be a hundred times as wide as the others.
    room = 2 * float(np.ptp(values)) or 0.5 * abs(float(values[0])) or 1.0
    floor, roof = float(values.min()) - room, float(values.max()) + room
    points = []
    for r in known[:: -(-len(known) // MAX_RATIOS)]:
        low, high = r["interval"] or (r["ratio"], r["ratio"])
        points.append({"x": (r["lower"] + r["upper"]) / 2, "y": r["ratio"],
                       "low": max(low, floor), "high": min(high, roof)})  # fmt: skip
    y = {**axis("y", "Vᵢ"), "scale": {"zero": False}}
    mean = [{"y": float(values.mean())}]
    return [
        marks("rule", mean, "muted", {}, y, strokeDash=[4, 3]),
        marks("rule", points, "target", x, {**y, "field": "low"}, y2="high", strokeWidth=1.5),
        marks("point", points, "target", x, y, filled=True, opacity=1, size=26),
    ]


def _over_regions(
    regions: Sequence[Mapping[str, Any]], heights: Ints, *, least: float
) -> list[dict[str, float]]:
    """A staircase over the regions, which is down where no region is.

    least: where the axis begins, and with it the one region of a pool of equal scores.
    """
    points: list[dict[str, float]] = []
    for i, (region, height) in enumerate(zip(regions, heights, strict=True)):
        point = len(regions) == 1 and region["lower"] == region["upper"]
        points.append({"x": least if point else region["lower"], "y": float(height)})
        if i + 1 == len(regions) or regions[i + 1]["lower"] > region["upper"]:
            points.append({"x": region["upper"], "y": 0.0})
    return points


def agreement_figure(
    small: Floats, target: Floats, correlation: Correlation | None, *, untuned: bool
) -> Markup:
    """Scores of the same rows on both models, one point a row.

    untuned: whether the small model's are those from before its fine-tuning.
    """
    points = [{"x": float(x), "y": float(y)} for x, y in zip(small, target, strict=True)]
    before = " before fine-tuning" if untuned else ""
    x, y = axis("x", f"score on the small model{before}"), axis("y", "score on the target")
    for one in (x, y):
        one["scale"] = {"zero": False}
    dots = marks("point", points, "target", x, y, filled=True, opacity=0.55, size=22)
    label = f"Scores of {rows_of(len(points))} on the small model{before} and on the target"
    if correlation:
        label += f", rank correlation {correlation.value:.2f}"
    return draw([panel(260, dots)], label)


def lengths_figure(bins: Bins, name: str, *, totals: Mapping[str, int]) -> Markup:
    """Share of all rows and of the chosen ones by response length.

    totals: rows of each group, also those beyond the axis, where many of the chosen ones may be.
    """
    domain = [float(bins.edges[0]), float(bins.edges[-1])]
    x, y = axis("x", "response tokens", domain=domain), axis("y", "share of rows", format=".0%")
    shares = {group: count / max(totals[group], 1) for group, count in bins.counts.items()}
    layers = [
        staircase(steps(bins.edges, shares["all"]), "all", x, y),
        marks("line", steps(bins.edges, shares["chosen"]), "chosen", x, y,
              interpolate="step-after", strokeWidth=2),
    ]  # fmt: skip
    return draw([panel(150, *layers)], f"Response lengths of all rows and of coreset {name}")


def times_figure(stages: Sequence[Mapping[str, Any]]) -> Markup:
    """A bar a stage."""
    names = [f"{stage['name']} ({duration(stage['seconds'])})" for stage in stages]
    bars = [{"name": name, "x": stage["seconds"]} for name, stage in
            zip(names, stages, strict=True)]  # fmt: skip
    # Names stand above their bars: beside them they would leave a phone no width to draw in.
    y = {"field": "name", "type": "nominal", "sort": names, "axis": None,
         "scale": {"paddingInner": 0.72, "paddingOuter": 0.5}}  # fmt: skip
    x = axis("x", "seconds", tickCount=5)
    text = marks("text", bars, "ink", {"value": 0}, y, align="left", dy=-11, fontSize=12)
    text["encoding"]["text"] = {"field": "name"}
    return draw([panel(34 * len(bars), marks("bar", bars, "all", x, y, height=10), text)],
                "Seconds of every stage; the table has the numbers")  # fmt: skip
