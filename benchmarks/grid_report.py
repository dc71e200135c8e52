"""Tables and a plot of the grid's finished cells."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from staff.compare.results import interval_of
from staff.compare.statistics import Estimate, estimate, verdict
from staff.runs.compare_cells import UNTUNED
from staff.selectors.verification import student_95
from staff.training.statistics import Interval
from tasks import TASKS
from variants import CORE, OTHERS, VARIANTS

# See search.md: tasks and seeds of the search, and of the confirmation of what it found.
TUNING = ("e2e_nlg", "cogs", "snips"), (0, 1, 2)
CONFIRMATION = ("dialogsum", "bioinstruct"), (0, 1, 2, 3, 4)
GENERATED = {"rougeL": "ROUGE-L", "exact": "exact match, %"}
SCALE = {"exact": 100}
METHODS = (*CORE, *OTHERS)
# STAFF's parts and their released values -> the variants that change nothing else.
PARTS = {
    "verification (yes)": ("no-verification",),
    "b_v, rows verified a region (10)": ("verify-1", "verify-50"),
    "what the target's scores are divided by (tuned)": ("against-untuned",),
    "K, regions (50)": ("regions-10", "regions-100"),
    "regions of equal (width)": ("by-count",),
    "cut (0.1)": ("cut-0", "cut-0.2"),
    "allocation (shares)": ("allocation-paper", "shrunk"),
    "within a region (hardest)": ("within-random", "spread"),
    "phi (last-value)": ("phi-lm-head", "phi-adapter", "phi-last-value-lora"),
    "T, epochs of the small model (3)": ("epochs-1", "epochs-0", "tune-0.3"),
    "small model (1.1M)": ("small-4m", "small-bitnet", "small-stories"),
    "small model (none: the target scores all rows, none are verified)": ("target-scores",),
}
SEVERAL = "several at once"
INTERVALS = "95 % intervals over seeds (three if nothing is said) and items"
Key = tuple[str, str | None, int | None]  # method, keep, seed


@dataclass(slots=True)
class Found:
    """One task's finished cells: what is known of each, and its values float64 [n] by metric.

    dtype: what all of them were computed in. models: their sizes and learning rate, where told.
    """

    cells: dict[Key, dict[str, Any]] = field(default_factory=dict)
    values: dict[str, dict[Key, Any]] = field(default_factory=dict)
    dtype: str = "float32"
    models: dict[str, Any] = field(default_factory=dict)

    def rows(self, metric: str, methods: Sequence[str]) -> list[tuple[str, str | None]]:
        """Methods and fractions that have the metric, in a table's order."""
        found = {(m, k) for m, k, _ in self.values.get(metric, {}) if k is None or m in methods}
        return sorted(found, key=_place)

    def tells(self, metric: str) -> bool:
        """Whether any cell has anything but zeros of the metric."""
        return any(values.any() for values in self.values.get(metric, {}).values())

    def seeds(self, metric: str, method: str, keep: str | None) -> set[int | None]:
        """The seeds of which there are cells."""
        return {s for m, k, s in self.values.get(metric, {}) if (m, k) == (method, keep)}

    def over(self, metric: str, method: str, keep: str | None, seeds: Any = None) -> Estimate:
        """The metric over seeds and items."""
        wanted = self.seeds(metric, method, keep) if seeds is None else seeds
        table = [self.values[metric][method, keep, s] for s in sorted(wanted, key=str)]
        return estimate(np.array(table))

    def value(self, metric: str, method: str, keep: str | None) -> Interval:
        """The metric with its interval."""
        return _scaled(metric, interval_of(self.over(metric, method, keep), metric))

    def bleu(self, method: str, keep: str | None) -> str:
        """The corpus's BLEU, mean over seeds; it is no mean over items, so it has no interval."""
        values = [c["values"] for (m, k, _), c in self.cells.items() if (m, k) == (method, keep)]
        known = [value["bleu"] for value in values if "bleu" in value]
        return f"{np.mean(known):.1f}" if known else ""

    def gap(
        self, metric: str, method: str, keep: str | None, *, minus: str = "random"
    ) -> Interval | None:
        """A metric minus another method's, seed by seed; None where there is none to compare."""
        both = self.shared(metric, method, keep, minus)
        if keep is None or not both or method == minus:
            return None
        mine, other = (self.over(metric, name, keep, both) for name in (method, minus))
        return _scaled(metric, (mine - other).interval())

    def shared(self, metric: str, method: str, keep: str | None, minus: str) -> set[int | None]:
        """The seeds of which there are cells of both methods."""
        return self.seeds(metric, method, keep) & self.seeds(metric, minus, keep)

    def percent(self, method: str, keep: str = "0.1", *, minus: str) -> Interval | None:
        """The loss over another method's, %, of the seeds that both have.

        The interval is that of the logarithm of their ratio: both are uncertain, and where one is
        far above the other their difference over the other's mean seems up to half as uncertain.
        """
        both = self.shared("loss", method, keep, minus)
        if not both or method == minus:
            return None
        mine, other = (self.over("loss", name, keep, both) for name in (method, minus))
        ratio = Estimate(
            np.log(mine.by_seed / other.by_seed), np.log(mine.draws / other.draws), mine.items
        )
        return Interval(*(float(100 * np.expm1(end)) for end in ratio.interval()))


def report(store: Path) -> Iterator[str]:
    """Every task's tables as Markdown; wins, ties and losses over tasks; STAFF's settings."""
    tasks = load(store)
    yield from _models(tasks)
    yield from _over_random(tasks)
    yield from _staff_over(tasks)
    yield from _against_random(tasks)
    for task, found in tasks.items():
        yield f"## {task}\n"
        yield from _losses(found)
        for metric, title in GENERATED.items():
            yield from _answers(found, metric, title)
    yield from _settings(tasks)
    losses = {task: found.values.get("loss", {}) for task, found in tasks.items()}
    yield from search("Test loss over random's, as a logarithm", losses, *TUNING)
    yield from search("Confirmation", losses, *CONFIRMATION)


def _models(tasks: Mapping[str, Found]) -> Iterator[str]:
    """The models of a store whose files tell them, and the precision."""
    told = {json.dumps([found.models, found.dtype]) for found in tasks.values()}
    if len(told) != 1 or not (models := next(iter(tasks.values())).models):
        return
    small, target = (f"{models['parameters'][role] / 1e6:.1f}M" for role in ("small", "target"))
    dtype = next(iter(tasks.values())).dtype
    yield f"A target of {target} parameters, a small model of {small}, {dtype}, a learning rate of"
    yield f"{models['learning_rate']:g} for both.\n"


def _over_random(tasks: Mapping[str, Found]) -> Iterator[str]:
    """The core methods' losses over random's, task by task."""
    yield "## Test loss over random's, %\n"
    yield f"With {INTERVALS}; below 0 is better than random.\n"
    yield from _by_task(tasks, CORE, lambda found, *key: percent_text(found, *key, minus="random"))


def _staff_over(tasks: Mapping[str, Found]) -> Iterator[str]:
    """STAFF's losses over those of the other core methods, task by task."""
    others = [name for name in CORE if name not in ("staff", "random")]
    yield "## STAFF's test loss over that of another method, %\n"
    yield f"With {INTERVALS}; below 0: STAFF is better than this"
    yield "method.\n"
    yield from _by_task(
        tasks, others, lambda found, other, keep: percent_text(found, "staff", keep, minus=other)
    )


def _by_task(
    tasks: Mapping[str, Found], methods: Sequence[str], text: Callable[[Found, str, str], str]
) -> Iterator[str]:
    """A table of methods and fractions against tasks; text: of a task, a method and a fraction."""
    yield f"| method | keep | {' | '.join(tasks)} |\n" + "| --- " * (len(tasks) + 2) + "|"
    keys = {key for found in tasks.values() for key in found.rows("loss", methods) if key[1]}
    for method, keep in sorted(keys, key=_place):
        texts = [text(found, method, str(keep)) for found in tasks.values()]
        if any(texts):
            yield f"| {method} | {keep} | {' | '.join(texts)} |"
    yield ""


def percent_text(
    found: Found, method: str, keep: str = "0.1", *, minus: str, usual: int | None = 3
) -> str:
    """What a loss is over another one, and of how many seeds if these are not as many as usual."""
    gap, both = found.percent(method, keep, minus=minus), found.shared("loss", method, keep, minus)
    told = gap and len(both) != usual
    return signed(gap, 1) + (f", {len(both)} seed{'s' * (len(both) > 1)}" if told else "")


def _losses(found: Found) -> Iterator[str]:
    items = next(iter(found.cells.values()))["test"]["rows"]
    yield (
        f"Test loss over {items} test rows, in nats a token; 95 % intervals, of 1 seed over items "
        "alone.\n"
    )
    yield "| tuned on | keep | rows | seeds | loss | minus random | |\n" + "| --- " * 7 + "|"
    for method, keep in found.rows("loss", METHODS):
        seeds = found.seeds("loss", method, keep)
        tuning = found.cells[method, keep, next(iter(seeds))]["tuning"]
        mean, gap = found.value("loss", method, keep), found.gap("loss", method, keep)
        yield (
            f"| {method} | {keep or ''} | {tuning['rows'] if tuning else 0} | {len(seeds)} "
            f"| {spelt(mean, 3)} | {signed(gap, 3)} "
            f"| {verdict(gap, smaller_is_better=True) if gap else ''} |"
        )
    yield ""


def _answers(found: Found, metric: str, title: str) -> Iterator[str]:
    rows = found.rows(metric, METHODS)
    if not found.tells(metric):
        if known := found.values.get(metric):
            yield f"No answer of any of {len(known)} cells is right to the letter.\n"
        return
    bleu = metric == "rougeL"  # beside it, of the same answers
    head = f"| tuned on | keep | seeds | {title} | minus random | |" + " BLEU |" * bleu
    yield f"{head}\n" + "| --- " * (6 + bleu) + "|"
    for method, keep in rows:
        seeds = found.seeds(metric, method, keep)
        mean, gap = found.value(metric, method, keep), found.gap(metric, method, keep)
        yield (
            f"| {method} | {keep or ''} | {len(seeds)} | {spelt(mean, 1)} | {signed(gap, 1)} "
            f"| {verdict(gap, smaller_is_better=False) if gap else ''} |"
            + (f" {found.bleu(method, keep)} |" if bleu else "")
        )
    yield ""
    if bleu:
        yield "BLEU: of all answers at once, mean over seeds.\n"


def _against_random(tasks: Mapping[str, Found]) -> Iterator[str]:
    yield "## Wins, ties and losses against random, over tasks\n"
    yield "Tasks where there are two seeds or more of both, and for exact match any right answer of"
    yield "any method.\n"
    yield "| method | keep | loss | ROUGE-L | exact match |\n" + "| --- " * 5 + "|"
    keys = {key for found in tasks.values() for key in found.rows("loss", METHODS)}
    for method, keep in sorted(keys, key=_place):
        texts = []
        for metric in ("loss", *GENERATED):
            gaps = [
                found.gap(metric, method, keep)
                for found in tasks.values()
                if found.tells(metric) and len(found.shared(metric, method, keep, "random")) > 1
            ]
            words = [verdict(g, smaller_is_better=metric == "loss") for g in gaps if g]
            counts = " – ".join(str(words.count(word)) for word in ("win", "tie", "loss"))
            texts.append(counts if words else "")
        if any(texts):
            yield f"| {method} | {keep} | {' | '.join(texts)} |"
    yield ""


def _settings(tasks: Mapping[str, Found]) -> Iterator[str]:
    """STAFF with one setting changed, or several, against STAFF as released and against random."""
    changed = {name for _, name in _parts()} - {"staff"}
    losses = (found.values.get("loss", {}) for found in tasks.values())
    if not any(method in changed for found in losses for method, _, _ in found):
        return
    yield "## STAFF's settings\n"
    yield (
        "Test loss at keep 0.1, first over that of the released settings, then over random's, %. "
        "How to read a row: its settings differ in this part alone, whose released value is in "
        "brackets ([but selections were made on different days]"
        "(../../docs/benchmarks.md#the-grid)); below 0 the change helps, or is better than random. "
        "95 % intervals over seeds and items, **of 1 seed over items alone: another seed may say "
        "something else**. An empty cell was not run. Several at once: `plain-` is not verified, "
        "`random-` draws rows at random within regions; all names: [variants.py](../variants.py).\n"
    )
    for title, base in (("Over the released settings", "staff"), ("Over random", "random")):
        yield f"### {title}\n"
        yield f"| part | settings | {' | '.join(tasks)} |\n" + "| --- " * (len(tasks) + 2) + "|"
        for part, name in _parts():
            texts = [percent_text(found, name, minus=base, usual=None) for found in tasks.values()]
            if any(texts):
                yield f"| {part} | {name} | {' | '.join(texts)} |"
        yield ""


def _parts() -> Iterator[tuple[str, str]]:
    """The part that is changed and the variant, for all of STAFF's variants."""
    single = {name for names in PARTS.values() for name in names}
    several = [name for name in VARIANTS if name not in METHODS and name not in single]
    yield "none", "staff"
    for part, names in {**PARTS, SEVERAL: several}.items():
        yield from ((part, name) for name in names)


def search(
    title: str, losses: Mapping[str, Any], tasks: Sequence[str], seeds: Sequence[int]
) -> Iterator[str]:
    """The statistic of search.md for every variant that has all these cells, lowest first."""
    if not set(tasks) <= losses.keys():
        return
    others = [name for name in VARIANTS if name != "random"]
    pooled = {name: over_tasks(losses, name, "random", tasks, seeds) for name in others}
    found = [(*gap, name) for name, gap in pooled.items() if gap]
    if not found:
        return
    yield f"## {title}\n"
    yield f"Keep 0.1, mean over {', '.join(tasks)} and {len(seeds)} seeds, with Student's 95 %"
    yield "interval over seeds ([search.md](../search.md)); below 0 is better than random.\n"
    yield "| method | mean | 95 % |\n| --- | --- | --- |"
    for mean, reach, method in sorted(found):
        yield f"| {method} | {mean:+.3f} | {mean - reach:+.3f} to {mean + reach:+.3f} |"
    yield ""


def over_tasks(
    losses: Mapping[str, Any], method: str, base: str, tasks: Sequence[str], seeds: Sequence[int]
) -> tuple[float, float] | None:
    """Mean over tasks of the logarithm of one loss over the other's, and how far it reaches.

    The reach is Student's 95 % interval over seeds. None where a cell is missing.
    """
    ours, theirs = (
        [[losses.get(task, {}).get((name, "0.1", seed)) for task in tasks] for seed in seeds]
        for name in (method, base)
    )
    if any(values is None for row in (*ours, *theirs) for values in row):
        return None
    ratios = [
        np.mean([np.log(a.mean() / b.mean()) for a, b in zip(*pair, strict=True)])
        for pair in zip(ours, theirs, strict=True)
    ]
    reach = student_95(len(seeds) - 1) * np.std(ratios, ddof=1) / np.sqrt(len(seeds))
    return float(np.mean(ratios)), float(reach)


def plot(store: Path, methods: Sequence[str]) -> str:
    """SVG: every task's loss against random's, in percent, with its interval, by fraction."""
    import vl_convert

    points = []
    for task, found in load(store).items():
        for method, keep in found.rows("loss", methods):
            if keep and (gap := found.percent(method, keep, minus="random")):
                place = {"task": task, "method": method, "keep": keep}
                points.append({**place, "x": gap.mean, "low": gap.low, "high": gap.high})
    y = {"field": "method", "type": "nominal", "sort": list(methods), "title": None}
    fraction = {"field": "keep", "type": "nominal"}
    colour = {**fraction, "scale": {"range": ["#0072b2", "#e69f00", "#009e73"]}}
    apart = {"y": y, "yOffset": fraction, "color": colour}
    x = {"type": "quantitative", "title": "test loss against random's, % (left is better)"}
    interval = {"x": {**x, "field": "low"}, "x2": {"field": "high"}, **apart}
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "background": "white",
        "data": {"values": points},
        "facet": {"field": "task", "type": "nominal", "title": None, "sort": list(TASKS)},
        "columns": 3,
        "spec": {
            "width": 210,
            "height": 26 * len(methods),
            "layer": [
                {"mark": {"type": "rule"}, "encoding": interval},
                {
                    "mark": {"type": "point", "filled": True, "opacity": 1},
                    "encoding": {"x": {**x, "field": "x"}, **apart},
                },
                {"mark": {"type": "rule", "strokeDash": [4, 3]}, "encoding": {"x": {"datum": 0}}},
            ],
        },
        "resolve": {"scale": {"x": "independent"}},
    }
    return str(vl_convert.vegalite_to_svg(spec))


def load(store: Path) -> dict[str, Found]:
    """Task -> what is in the store of it, in the order of `TASKS`."""
    tasks: dict[str, Found] = {}
    made_from: dict[str, str] = {}
    for path in sorted(store.glob("*.json")):
        facts, items = json.loads(path.read_text()), pq.read_table(path.with_suffix(".parquet"))
        if made_from.setdefault(facts["task"], facts["made_from"]) != facts["made_from"]:
            raise SystemExit(f"{path} was made from other data or models than its task's others")
        dtype = facts.get("dtype", "float32")  # which older files do not say
        found = tasks.setdefault(facts["task"], Found(dtype=dtype, models=facts.get("models", {})))
        names = np.array(items["cell"].to_pylist())
        for name, cell in facts["cells"].items():
            key = (cell["method"], cell["keep"], cell["seed"])
            found.cells[key] = cell
            for metric in ("loss", *GENERATED):
                values = items[metric].to_numpy().astype(np.float64)[names == name]
                if len(values) and not np.isnan(values).any():
                    found.values.setdefault(metric, {})[key] = values
    return {name: tasks[name] for name in TASKS if name in tasks}


def _scaled(metric: str, found: Interval) -> Interval:
    return Interval(*(SCALE.get(metric, 1) * end for end in found))


def signed(gap: Interval | None, digits: int) -> str:
    """A difference and its interval with their signs; empty where there is none."""
    return "" if gap is None else spelt(gap, digits, sign="+")


def spelt(found: Interval, digits: int, *, sign: str = "") -> str:
    """A value and its interval."""
    mean, low, high = (f"{end:{sign}.{digits}f}" for end in found)
    return f"{mean} ({low} to {high})"


def _place(key: tuple[str, str | None]) -> tuple[float, int]:
    """Order in a table: untuned, everything, then by fraction and as `VARIANTS` has them."""
    method, keep = key
    if keep is None:
        return (0.0, 0 if method == UNTUNED else 1)
    return (float(keep), list(VARIANTS).index(method))
