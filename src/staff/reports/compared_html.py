"""report.html of a comparison: which methods beat random, by how much, and at what cost."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any

from markupsafe import Markup

from staff.reports import compared_figures as figures
from staff.reports.compared import (
    LOWER_IS_BETTER,
    METRICS,
    TITLES,
    cost_columns,
    has_cost,
    metric_columns,
    metrics_of,
    notes,
    value_text,
    warnings_of,
)
from staff.reports.findings import VERDICTS, find, headline, tallies, without_zeros
from staff.reports.methods import Style, styles
from staff.reports.page import render_page
from staff.reports.scales import WHOLE
from staff.reports.tables import settings
from staff.runs.store import write_atomic

Row = Mapping[str, Any]
MAX_SIZES = 6  # those asked for first have charts and lines in the tables


def write_compared(path: Path, result: Mapping[str, Any]) -> None:
    """Write report.html of a comparison, atomically, from what compare.json says."""
    write_atomic(path, render_comparison_page(result))


def render_comparison_page(result: Mapping[str, Any]) -> str:
    """The page as text; the same for the same comparison."""
    sizes = list(dict.fromkeys(r["keep"] for r in result["results"] if r["keep"] is not None))
    shown = [row for row in result["results"] if row["keep"] in (None, *sizes[:MAX_SIZES])]
    methods = list(dict.fromkeys(row["method"] for row in shown if row["keep"] is not None))
    tuned = [row for row in shown if row["tuning_seconds"] is not None]
    warnings = warnings_of(result)
    counted = without_zeros(result["results"])
    return render_page(
        "comparison.html",
        result=result,
        name=PurePath(str(result["data"]["path"])).name,
        warnings=warnings,
        remarks=_remarks(len(sizes)),
        notes=[note for note in notes(result) if note not in warnings],
        items=shown[0]["items"],
        seeds=result["config"]["seeds"],
        methods=methods,
        sizes=sizes,
        headline=headline(counted),
        tallies=tallies(counted),
        verdicts=[sum(row["random_verdict"] == verdict for row in counted) for verdict in VERDICTS],
        metrics=[
            _metric(metric, result["results"], shown, styles(methods))
            for metric in metrics_of(shown)
        ],
        costs=cost_columns(tuned) if tuned else [],
        settings=settings(result),
    )


def _metric(
    metric: str, every: Sequence[Row], shown: Sequence[Row], look: Mapping[str, Style]
) -> dict[str, Any]:
    """One metric's section: finding, charts and table, the latter two of the sizes shown."""
    of_all, rows = ([row for row in some if row["metric"] == metric] for some in (every, shown))
    own = [row for row in rows if row["keep"] is not None]
    one_size = len({row["keep"] for row in own}) == 1
    charts: dict[str, Markup | None] = {
        "means": (figures.means_figure if one_size else figures.sizes_figure)(rows, look),
        "differences": None,
        "costs": None,
    }
    if any(row["random_difference"] is not None for row in own):
        charts["differences"] = figures.differences_figure(rows, look)
    placed = [row for row in rows if has_cost(row)]
    if any(row["keep"] is not None and row["tuning_seconds"] is not None for row in placed):
        charts["costs"] = figures.cost_figure(placed, look)
    return {
        "metric": metric,
        "name": METRICS[metric],
        "title": TITLES[metric],
        "lower": metric in LOWER_IS_BETTER,
        "one_size": one_size,
        "whole": [
            (WHOLE[row["method"]], value_text(metric, row["value"]))
            for row in rows
            if row["keep"] is None
        ],
        "table": metric_columns(rows, metric, short=False),
        **asdict(find(of_all)),
        **charts,
    }


def _remarks(sizes: int) -> list[str]:
    """What else to know, where there is something."""
    if sizes <= MAX_SIZES:
        return []
    return [f"the first {MAX_SIZES} of {sizes} sizes are shown; results.csv has all"]
