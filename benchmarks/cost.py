"""What selection costs, stage by stage, and what each saving does to the coreset.

    python benchmarks/cost.py measure --tiny DIR   # seconds, on an idle machine
    python benchmarks/cost.py report [--write]

Cost: the demo's data and embedded family; the small model is fine-tuned for T epochs on all rows
or a part, scores all rows, the target verifies; beside it the target is tuned on everything, all
in one process. Quality: the grid's finished cells (grid.py), paired with those of T = 3. The chart
has one against the other; --write makes it anew from the cells that there are.
"""

import argparse
import itertools
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from grid_report import Found, load, over_tasks, percent_text, signed
from staff import pipeline, single
from staff.demo import COLUMNS, EPOCHS, LEARNING_RATE, SMALL, TARGET, TASK
from staff.runs.config import FinetuneConfig, SelectConfig
from staff.training.statistics import Interval
from tasks import TASKS
from written import machine

RESULTS = Path(__file__).parent / "results"
MEASURED, REPORT = RESULTS / "cost.json", RESULTS / "cost.md"
CHART = REPORT.with_suffix(".svg")
STAGES = ("fine-tune small", "score small", "interpolate", "verify on target")
WAYS: dict[str, dict[str, Any]] = {
    "T = 3": {"epochs": 3},
    "T = 1": {"epochs": 1},
    "T = 3 on 30 %": {"epochs": 3, "finetune_on": 0.3},
    "T = 0": {"skip_finetune": True},
    "T = 3, scores of 30 %": {"epochs": 3, "score_on": 0.3},
    "T = 0, scores of 30 %": {"skip_finetune": True, "score_on": 0.3},
    "T = 3, 0.4M small": {"epochs": 3, "small": "tiny"},
    "T = 0, 0.4M small": {"skip_finetune": True, "small": "tiny"},
}
VERIFIED = "verified, random within regions"
BASE = "T = 3"  # what the other ways are compared with
# How the grid's cells were chosen from these scores -> way -> its variant (variants.py).
CURVES = {
    VERIFIED: {
        BASE: "within-random",
        "T = 1": "random-epochs-1",
        "T = 3 on 30 %": "random-tune-0.3",
        "T = 0": "random-epochs-0",
        "T = 3, scores of 30 %": "random-score-0.3",
        "T = 0, scores of 30 %": "random-epochs-0-score-0.3",
        "T = 3, 0.4M small": "random-tiny",
        "T = 0, 0.4M small": "random-epochs-0-tiny",
    },
    "not verified, hardest within regions": {
        BASE: "no-verification",
        "T = 1": "plain-epochs-1",
        "T = 3 on 30 %": "plain-tune-0.3",
        "T = 0": "plain-epochs-0",
        "T = 3, scores of 30 %": "plain-score-0.3",
        "T = 0, scores of 30 %": "plain-epochs-0-score-0.3",
    },
}

WITHOUT = {"fine-tuning (T = 0)": "random-epochs-0", "verifying": "plain-random"}
UNVERIFIED = "T = 3, not verified"  # in the chart, beside the ways of `VERIFIED`
AIM = {"ratio": 0.05, "percent": 1.0}  # at most; the latter of the interval's upper end
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
APART = 1.1  # of labels of the chart, on its log scale
SEEDS = (0, 1, 2)
MEAN = (
    f"Mean: of the logarithm over the tasks that have {len(SEEDS)} seeds, with Student's interval "
    "over seeds."
)


def measure(dtypes: Sequence[str], tiny: Path) -> None:
    """Time every way, and tuning the target on all rows; medians would take hours: one run each.

    What was measured in another precision is kept, with its machine. tiny: the folder of the 0.4M
    model.
    """
    found = json.loads(MEASURED.read_text()) if MEASURED.is_file() else {}
    for dtype in dtypes:
        used = machine(f"{torch.get_num_threads()} threads")
        found[dtype] = {"machine": used, **_measure(dtype, tiny)}
        MEASURED.write_text(json.dumps(found, indent=1) + "\n")


def _measure(dtype: str, tiny: Path) -> dict[str, Any]:
    shared = {"data": str(TASK / "train.jsonl"), "learning_rate": LEARNING_RATE, "dtype": dtype}
    small = {"tiny": str(tiny), "small": str(SMALL)}
    others = {"target": str(TARGET), "keep": (0.1,), **COLUMNS}
    seconds: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, settings in WAYS.items():
            out = str(Path(scratch) / name)
            asked = {**settings, "small": small[settings.get("small", "small")], "out": out}
            config = SelectConfig(**shared, **others, **asked)
            stages = pipeline.select(config)["stages"]
            seconds[name] = {stage["name"]: stage["seconds"] for stage in stages}
            print(dtype, name, seconds[name], flush=True)
        tuned = single.finetune(
            FinetuneConfig(
                **shared,
                **COLUMNS,
                model=str(TARGET),
                out=str(Path(scratch) / "all"),
                epochs=EPOCHS,
            )
        )
    return {"ways": seconds, "tuning": tuned["seconds"]}


def report(tasks: Mapping[str, Found], measured: dict[str, Any]) -> Iterator[str]:
    """The tables as Markdown. measured: as in `MEASURED`; empty where nothing was."""
    yield "# What selection costs, and what saving does\n"
    yield "`python benchmarks/cost.py measure --tiny DIR`, `report --write`\n"
    dtype = dtype_of(tasks)
    if measured:
        yield from _costs(measured)
        yield f"## Cost against quality\n\n![Test loss against cost ratio]({CHART.name})\n"
        yield (
            f"Test loss against T = 3's at keep 0.1. Black: the mean over the tasks that have "
            f"{len(SEEDS)} seeds, with Student's 95 % interval over seeds (means of different ways "
            "may be over different tasks). Coloured: each task, moved sideways so that none hides "
            "another; hollow: fewer seeds. Open diamond: T = 3. The figures and the tasks' "
            "intervals are below. Shaded: the aim, a ratio of at most "
            f"{AIM['ratio']} with the upper end of the interval at most {AIM['percent']:g} %. "
            f"Ratios: those above, of E2E NLG in {dtype}, as the losses are; with a larger target "
            "they are smaller.\n"
        )
    yield from _worth(tasks)
    for title, curve in CURVES.items():
        yield f"## Test loss over that of T = 3, %: {title}\n"
        yield "Keep 0.1; 95 % intervals over seeds and items (of 1 seed over items alone); below 0"
        yield "is better than T = 3.\n"
        yield _head("", tasks)
        for way, variant in curve.items():
            if way != BASE:
                yield _row(way, tasks, variant, curve[BASE])
        yield f"\n{MEAN}\n"


def load_tasks(store: Path) -> dict[str, Found]:
    """The grid's tasks that have cells of a saving."""
    savings = {curve[way] for curve in CURVES.values() for way in curve if way != BASE}
    return {
        task: found
        for task, found in load(store).items()
        if any(key[0] in savings for key in found.cells)
    }


def dtype_of(tasks: Mapping[str, Found]) -> str:
    """What the cells of all tasks were computed in."""
    found = sorted({task.dtype for task in tasks.values()})
    if len(found) != 1:
        raise SystemExit(f"the grid's cells must be of one dtype, not {', '.join(found) or 'none'}")
    return found[0]


def _costs(measured: dict[str, Any]) -> Iterator[str]:
    yield "## Seconds\n"
    yield "E2E NLG, 4,000 rows, 1.1M small (0.4M where it says so), 4M target.\n"
    for dtype, found in measured.items():
        tuning = found["tuning"]
        yield (
            f"{dtype}, {found['machine']}: tuning the target on all rows for {EPOCHS} epochs takes "
            f"{tuning:.0f} s.\n"
        )
        yield (
            "| small model tuned | fine-tune | score | interpolate | verify | ratio | ratio, not "
            "verified |"
        )
        yield "| --- " * 7 + "|"
        for way, stages in found["ways"].items():
            parts = [stages.get(name, 0) for name in STAGES]
            texts = " | ".join(f"{part:.1f}" for part in parts)
            verified, plain = (ratio(stages, tuning, verified=v) for v in (True, False))
            yield f"| {way} | {texts} | {verified:.3f} | {plain:.3f} |"
        yield ""
    yield (
        "Ratio: selection (these four stages) to tuning the target on everything. One run each. "
        "Stages include imports and loading the model, tuning the target does not, so that the "
        "ratios are a little too high.\n"
    )


def ratio(stages: Mapping[str, float], tuning: float, *, verified: bool) -> float:
    """Seconds of selection to those of tuning the target on everything."""
    return sum(stages.get(name, 0) for name in (STAGES if verified else STAGES[:-1])) / tuning


def _worth(tasks: Mapping[str, Found]) -> Iterator[str]:
    """What fine-tuning the small model and verifying do to the coreset, over tasks."""
    yield "## Do fine-tuning the small model and verifying pay?\n"
    yield "Test loss without over that with, %, rows drawn at random within regions, keep 0.1; 95 %"
    yield "intervals over seeds and items (of 1 seed over items alone). Below 0: it does harm.\n"
    yield _head("without", tasks)
    for name, variant in WITHOUT.items():
        yield _row(name, tasks, variant, CURVES[VERIFIED][BASE])
    yield f"\n{MEAN}\n"


def _head(first: str, tasks: Mapping[str, Found]) -> str:
    return f"| {first} | {' | '.join(tasks)} | mean |\n" + "| --- " * (len(tasks) + 2) + "|"


def _row(name: str, tasks: Mapping[str, Found], variant: str, base: str) -> str:
    """The variant's loss over the base's, task by task and over the tasks that have all seeds."""
    cells = [percent_text(found, variant, minus=base, usual=None) for found in tasks.values()]
    mean = ""
    if pooled := over_all(tasks, variant, base):
        gap, known = pooled
        mean = signed(gap, 1) + (f", {known} tasks" if known < len(tasks) else "")
    return f"| {name} | {' | '.join(cells)} | {mean} |"


def over_all(tasks: Mapping[str, Found], variant: str, base: str) -> tuple[Interval, int] | None:
    """The loss over the base's, %, mean over the tasks that have all seeds, and how many these are.

    None if they are fewer than two.
    """
    losses = {
        task: found.values["loss"]
        for task, found in tasks.items()
        if set(SEEDS) <= found.shared("loss", variant, "0.1", base)
    }
    if len(losses) < 2:
        return None
    value, reach = over_tasks(losses, variant, base, list(losses), SEEDS)
    ends = (value, value - reach, value + reach)
    return Interval(*(100 * math.expm1(end) for end in ends)), len(losses)


def points(tasks: Mapping[str, Found], measured: dict[str, Any]) -> list[dict[str, Any]]:
    """What the chart shows: of every panel and way, its mean over tasks and every task.

    Each has a panel, way, ratio and y; a mean `low`, `high` and `tasks`, a task its name and
    whether it has `all` seeds. T = 3 is the `base` of its panel, at 0.
    """
    found, tuning = measured["ways"], measured["tuning"]
    shown = []
    for title, curve in CURVES.items():
        verified = title == VERIFIED
        ways = {
            way: (variant, ratio(found[way], tuning, verified=verified))
            for way, variant in curve.items()
            if way in found
        }
        if verified:
            cost = ratio(found[BASE], tuning, verified=False)
            ways[UNVERIFIED] = (WITHOUT["verifying"], cost)
        for way, (variant, cost) in ways.items():
            place = {"panel": title, "way": way, "ratio": cost}
            if way == BASE:
                shown.append({**place, "y": 0.0, "base": True})
                continue
            if pooled := over_all(tasks, variant, curve[BASE]):
                (mean, low, high), known = pooled
                shown.append({**place, "y": mean, "low": low, "high": high, "tasks": known})
            for task, one in tasks.items():
                if gap := one.percent(variant, minus=curve[BASE]):
                    seeds = one.shared("loss", variant, "0.1", curve[BASE])
                    full = set(SEEDS) <= seeds
                    shown.append({**place, "y": gap.mean, "task": task, "all": full})
    return shown


def plot(shown: Sequence[dict[str, Any]]) -> str:
    """SVG of `points`: cost ratio against test loss, one panel above the other."""
    import vl_convert

    names = [name for name in TASKS if any(point.get("task") == name for point in shown)]
    ratios = [point["ratio"] for point in shown]
    reach = 0.8 * min(ratios), 1.2 * max(ratios)
    panels = [[p for p in shown if p["panel"] == title] for title in CURVES]
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "background": "white",
        "vconcat": [_panel(points, names, reach) for points in panels if points],
    }
    return str(vl_convert.vegalite_to_svg(spec))


def _panel(
    shown: Sequence[dict[str, Any]], names: Sequence[str], reach: tuple[float, float]
) -> dict[str, Any]:
    """Vega-Lite of one panel's points; the tasks' names and the ratios' reach are of all panels."""
    over = {point["way"]: point["tasks"] for point in shown if "tasks" in point}
    ways = {point["way"]: point["ratio"] for point in shown if "base" not in point}
    labels: list[dict[str, Any]] = [
        {"ratio": cost, "text": f"{way} (mean of {over[way]} tasks)" if way in over else way}
        for way, cost in sorted(ways.items(), key=lambda way: way[1])
    ]
    for one, following in itertools.pairwise(labels):  # else one would be written over the other
        following["ratio"] = max(following["ratio"], APART * one["ratio"])
    ends = [point[end] for point in shown for end in ("y", "low", "high") if end in point]
    lowest, highest = min(ends) - 3, max(*ends, AIM["percent"]) + 3
    log = {"type": "log", "domain": reach, "nice": False}
    ticks = {"values": [0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5], "format": "~g"}
    x = {"type": "quantitative", "scale": log, "axis": ticks, "title": "cost ratio (log scale)"}
    y = {
        "type": "quantitative",
        "scale": {"domain": [lowest, highest], "nice": False},
        "title": "test loss against T = 3's, %",
    }
    at = {"x": {**x, "field": "ratio"}, "y": {**y, "field": "y"}}
    task = {
        "field": "task",
        "type": "nominal",
        "scale": {"domain": names, "range": COLOURS},
        "title": "single tasks",
        "legend": {"orient": "bottom"},
    }
    aim = {"x": reach[0], "x2": AIM["ratio"], "y": lowest, "y2": AIM["percent"]}
    black = {"fill": "black", "stroke": "black", "opacity": 1}
    diamond = {**black, "type": "point", "shape": "diamond", "size": 90}
    open_diamond = {**diamond, "fill": None, "size": 220}  # a task's point may lie within
    base, means = ([p for p in shown if kind in p] for kind in ("base", "tasks"))
    corner = {name: {"field": name} for name in ("x2", "y2")}
    layers: list[tuple[Sequence[dict[str, Any]], dict[str, Any], dict[str, Any]]] = [
        (
            [aim],
            {"type": "rect", "color": "#009e73", "opacity": 0.12},
            {"x": {**x, "field": "x"}, "y": {**y, "field": "y"}, **corner},
        ),
        ([{}], {"type": "rule", "strokeDash": [4, 3]}, {"y": {**y, "datum": 0}}),
        (base, open_diamond, at),
        *(
            (
                [point for point in shown if point.get("task") == name],
                # Tasks of one loss would hide each other.
                {"type": "point", "size": 34, "opacity": 1, "xOffset": 4 * i - 2 * len(names) + 2},
                {
                    **at,
                    "stroke": task,
                    "fill": {"condition": {"test": "datum.all", **task}, "value": "white"},
                },
            )
            for i, name in enumerate(names)
        ),
        (
            means,
            {"type": "rule", "strokeWidth": 2},
            {**at, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
        ),
        (means, diamond, at),
        (
            base,
            {"type": "text", "align": "left", "dx": 8, "dy": -8},
            {**at, "text": {"field": "way"}},
        ),
        (
            labels,
            {"type": "text", "angle": 315, "align": "left", "dx": 4, "dy": -2},
            {"x": at["x"], "y": {"value": 0}, "text": {"field": "text"}},
        ),
    ]
    return {
        "title": {"text": shown[0]["panel"], "anchor": "start"},
        "width": 640,
        "height": 260,
        "layer": [
            {"data": {"values": values}, "mark": mark, "encoding": encoding}
            for values, mark, encoding in layers
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    timing = verbs.add_parser("measure", help="time the stages")
    timing.add_argument(
        "--tiny", type=Path, required=True, help="of tools/pretrain_family.py --size tiny"
    )
    timing.add_argument("--dtypes", nargs="+", default=["float32"], help="e.g. float32 bfloat16")
    showing = verbs.add_parser("report", help="tables and a chart")
    showing.add_argument(
        "--write", action="store_true", help=f"also write {REPORT.name} and {CHART.name}"
    )
    args = parser.parse_args()
    if args.verb == "measure":
        measure(args.dtypes, args.tiny)
        return
    tasks = load_tasks(RESULTS / "grid")
    measured = json.loads(MEASURED.read_text()) if MEASURED.is_file() else {}
    text = "\n".join(report(tasks, measured))
    print(text)
    if args.write:
        REPORT.write_text(text + "\n")
        if measured:
            CHART.write_text(plot(points(tasks, measured[dtype_of(tasks)])))


if __name__ == "__main__":
    main()
