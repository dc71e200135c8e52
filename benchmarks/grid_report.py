"""Tables and a plot of the grid's finished cells."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from staff.compare.statistics import Estimate, estimate, verdict
from staff.runs.compare_cells import UNTUNED
from staff.selectors.verification import student_95
from staff.training.statistics import Interval
from tasks import TASKS
from variants import VARIANTS

TUNING_TASKS = ("e2e_nlg", "cogs", "snips")  # see search.md


def report(store: Path) -> Iterator[str]:
    """Every task's tables as Markdown, and wins, ties and losses over tasks."""
    cells, losses = _load(store)
    overall: dict[tuple[str, str], list[str]] = {}
    for task in [name for name in TASKS if name in cells]:
        values = losses[task]
        rows_of = {(c["method"], c["keep"]): c for c in cells[task].values()}
        items = next(iter(rows_of.values()))["test"]["rows"]
        yield f"## {task}\n\nTest loss over {items} test rows, in nats a token; 95 % intervals.\n"
        yield "| tuned on | keep | rows | seeds | loss | minus random | | ROUGE-L | exact |"
        yield "| --- " * 9 + "|"
        for method, keep in sorted(rows_of, key=_place):
            mine = _of(values, method, keep)
            tuning, said = rows_of[method, keep]["tuning"], ["", ""]
            gap = _gap(values, method, keep)
            if keep and gap:
                word = verdict(gap, smaller_is_better=True)
                said = [f"{gap.mean:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})", word]
                overall.setdefault((method, keep), []).append(word)
            found = _over(mine, sorted(mine)).interval()
            texts = [_mean(cells[task], method, keep, metric) for metric in ("rougeL", "exact")]
            yield (
                f"| {method} | {keep or ''} | {tuning['rows'] if tuning else 0} | {len(mine)} "
                f"| {found.mean:.3f} ({found.low:.3f} to {found.high:.3f}) "
                f"| {said[0]} | {said[1]} | {texts[0]} | {texts[1]} |"
            )
        yield ""
    yield "## Against random, over tasks\n\n| method | keep | win | tie | loss |"
    yield "| --- " * 5 + "|"
    for (method, keep), words in sorted(overall.items(), key=lambda pair: _place(pair[0])):
        counts = " | ".join(str(words.count(word)) for word in ("win", "tie", "loss"))
        yield f"| {method} | {keep} | {counts} |"
    yield ""
    yield from search(losses, TUNING_TASKS, (0, 1, 2))


def search(losses: Mapping[str, Any], tasks: Sequence[str], seeds: Sequence[int]) -> Iterator[str]:
    """The statistic of search.md for every variant that has all these cells, lowest first."""
    if not set(tasks) <= losses.keys():
        return
    found = []
    for method in VARIANTS:
        ours, random = (
            [[losses[task].get((name, "0.1", seed)) for task in tasks] for seed in seeds]
            for name in (method, "random")
        )
        if method == "random" or any(v is None for row in (*ours, *random) for v in row):
            continue
        ratios = [
            np.mean([np.log(a.mean() / b.mean()) for a, b in zip(*pair, strict=True)])
            for pair in zip(ours, random, strict=True)
        ]
        reach = student_95(len(seeds) - 1) * np.std(ratios, ddof=1) / np.sqrt(len(seeds))
        found.append((float(np.mean(ratios)), float(reach), method))
    yield "## Test loss over random's, as a logarithm\n"
    yield f"Keep 0.1, mean over {', '.join(tasks)} and {len(seeds)} seeds, with Student's 95 %"
    yield "interval over seeds ([search.md](../search.md)); below 0 is better than random.\n"
    yield "| method | mean | 95 % |\n| --- | --- | --- |"
    for mean, reach, method in sorted(found):
        yield f"| {method} | {mean:+.3f} | {mean - reach:+.3f} to {mean + reach:+.3f} |"


def plot(store: Path, methods: Sequence[str]) -> str:
    """SVG: every task's loss against random's at keep 0.1, in percent, with its interval."""
    import vl_convert

    _, losses = _load(store)
    points = []
    for task in [name for name in TASKS if name in losses]:
        random = _of(losses[task], "random", "0.1")
        for method in methods:
            gap = _gap(losses[task], method, "0.1")
            if gap and random:
                scale = 100 / _over(random, sorted(random)).value
                ends = {"low": gap.low * scale, "high": gap.high * scale}
                points.append({"task": task, "method": method, "x": gap.mean * scale, **ends})
    y = {"field": "method", "type": "nominal", "sort": list(methods), "title": None}
    x = {"type": "quantitative", "title": "test loss against random's, % (left is better)"}
    interval = {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": y}
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "background": "white",
        "data": {"values": points},
        "facet": {"field": "task", "type": "nominal", "title": None, "sort": list(TASKS)},
        "columns": 3,
        "spec": {
            "width": 210,
            "height": 22 * len(methods),
            "layer": [
                {"mark": {"type": "rule", "color": "#0072b2"}, "encoding": interval},
                {
                    "mark": {"type": "point", "filled": True, "color": "#0072b2"},
                    "encoding": {"x": {**x, "field": "x"}, "y": y},
                },
                {"mark": {"type": "rule", "strokeDash": [4, 3]}, "encoding": {"x": {"datum": 0}}},
            ],
        },
        "resolve": {"scale": {"x": "independent"}},
    }
    return str(vl_convert.vegalite_to_svg(spec))


Values = Mapping[tuple[str, str | None, int | None], Any]


def _load(store: Path) -> tuple[dict[str, dict[str, Any]], dict[str, dict[Any, Any]]]:
    """Task -> cells by file and name, and task -> (method, keep, seed) -> losses float64 [n]."""
    cells: dict[str, dict[str, Any]] = {}
    losses: dict[str, dict[Any, Any]] = {}
    made_from: dict[str, str] = {}
    for path in sorted(store.glob("*.json")):
        facts, items = json.loads(path.read_text()), pq.read_table(path.with_suffix(".parquet"))
        if made_from.setdefault(facts["task"], facts["made_from"]) != facts["made_from"]:
            raise SystemExit(f"{path} was made from other data or models than its task's others")
        names = np.array(items["cell"].to_pylist())
        loss = items["loss"].to_numpy().astype(np.float64)
        for name, cell in facts["cells"].items():
            cells.setdefault(facts["task"], {})[f"{name}-{facts['seed']}"] = cell
            key = (cell["method"], cell["keep"], cell["seed"])
            losses.setdefault(facts["task"], {})[key] = loss[names == name]
    return cells, losses


def _of(values: Values, method: str, keep: str | None) -> dict[int | None, Any]:
    """Seed -> losses [n]."""
    return {s: v for (m, k, s), v in values.items() if (m, k) == (method, keep)}


def _over(by_seed: Mapping[int | None, Any], seeds: Sequence[int | None]) -> Estimate:
    return estimate([by_seed[seed] for seed in seeds])


def _gap(values: Values, method: str, keep: str | None) -> Interval | None:
    """Loss minus random's of the same size, seed by seed; None where there is none to compare."""
    mine, random = _of(values, method, keep), _of(values, "random", keep)
    both = sorted(seed for seed in mine.keys() & random.keys() if seed is not None)
    if not both or method == "random":
        return None
    return (_over(mine, both) - _over(random, both)).interval()


def _mean(cells: Mapping[str, Any], method: str, keep: str | None, metric: str) -> str:
    """The mean over seeds of a generated metric, where there is one."""
    found = [
        c["values"][metric]
        for c in cells.values()
        if (c["method"], c["keep"]) == (method, keep) and metric in c["values"]
    ]
    return f"{np.mean(found):.3f}" if found else ""


def _place(key: tuple[str, str | None]) -> tuple[float, int]:
    """Order in a table: untuned, everything, then by fraction and as `VARIANTS` has them."""
    method, keep = key
    if keep is None:
        return (0.0, 0 if method == UNTUNED else 1)
    return (float(keep), list(VARIANTS).index(method))
