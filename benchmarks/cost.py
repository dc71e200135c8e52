"""What selection costs, stage by stage, and what each saving does to the coreset.

    python benchmarks/cost.py measure   # on an idle machine: seconds, into results/cost.json
    python benchmarks/cost.py report [--write]

Cost: the demo's data and embedded family; the small model is fine-tuned for T epochs on all rows
or a part, scores all rows, the target verifies; beside it the target is tuned on everything, all
in one process. Quality: the grid's finished cells (grid.py), paired with those of T = 3.
"""

import argparse
import json
import math
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from grid_report import Found, load, over_tasks
from staff import pipeline, single
from staff.demo import COLUMNS, EPOCHS, LEARNING_RATE, SMALL, TARGET, TASK
from staff.runs.config import FinetuneConfig, SelectConfig

RESULTS = Path(__file__).parent / "results"
MEASURED, REPORT = RESULTS / "cost.json", RESULTS / "cost.md"
STAGES = ("fine-tune small", "score small", "interpolate", "verify on target")
WAYS: dict[str, dict[str, Any]] = {
    "T = 3": {"epochs": 3},
    "T = 1": {"epochs": 1},
    "T = 3 on 30 %": {"epochs": 3, "finetune_on": 0.3},
    "T = 0": {"skip_finetune": True},
    "T = 3, scores of 30 %": {"epochs": 3, "score_on": 0.3},
    "T = 0, scores of 30 %": {"skip_finetune": True, "score_on": 0.3},
}
VERIFIED = "verified, random within regions"
# How the grid's cells were chosen from these scores -> the variant of each way (variants.py).
CURVES = {
    VERIFIED: (
        *("within-random", "random-epochs-1", "random-tune-0.3", "random-epochs-0"),
        *("random-score-0.3", "random-epochs-0-score-0.3"),
    ),
    "not verified, hardest within regions": (
        *("no-verification", "plain-epochs-1", "plain-tune-0.3", "plain-epochs-0"),
        *("plain-score-0.3", "plain-epochs-0-score-0.3"),
    ),
}

WITHOUT = {"fine-tuning (T = 0)": "random-epochs-0", "verifying": "plain-random"}
SEEDS = (0, 1, 2)
MEAN = (
    f"Mean: of the logarithm over the tasks that have {len(SEEDS)} seeds, with Student's interval "
    "over seeds."
)


def measure(dtypes: Sequence[str]) -> None:
    """Time every way, and tuning the target on all rows; medians would take hours: one run each.

    What was measured in another precision, on such a machine, is kept.
    """
    found: dict[str, Any] = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }
    earlier = json.loads(MEASURED.read_text()) if MEASURED.is_file() else {}
    same = all(earlier.get(name) == value for name, value in found.items())
    found["dtypes"] = earlier["dtypes"] if same else {}
    for dtype in dtypes:
        found["dtypes"][dtype] = _measure(dtype)
        MEASURED.write_text(json.dumps(found, indent=1) + "\n")


def _measure(dtype: str) -> dict[str, Any]:
    shared = {"data": str(TASK / "train.jsonl"), "learning_rate": LEARNING_RATE, "dtype": dtype}
    models = {"small": str(SMALL), "target": str(TARGET), "keep": (0.1,)}
    seconds: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, settings in WAYS.items():
            out = str(Path(scratch) / name)
            config = SelectConfig(**shared, **models, **settings, **COLUMNS, out=out)
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


def report() -> Iterator[str]:
    """The tables as Markdown."""
    yield "# What selection costs, and what saving does\n"
    yield "`python benchmarks/cost.py measure`, `report --write`\n"
    if MEASURED.is_file():
        yield from _costs(json.loads(MEASURED.read_text()))
    tasks = {
        task: found
        for task, found in load(RESULTS / "grid").items()
        if any(key[0] in curve[1:] for key in found.cells for curve in CURVES.values())
    }
    yield from _worth(tasks)
    for title, curve in CURVES.items():
        yield f"## Test loss over that of T = 3, %: {title}\n"
        yield "Keep 0.1; 95 % intervals over seeds and items (of 1 seed over items alone); below 0"
        yield "is better than T = 3.\n"
        yield _head("", tasks)
        for way, variant in list(zip(WAYS, curve, strict=True))[1:]:
            yield _row(way, tasks, variant, curve[0])
        yield f"\n{MEAN}\n"


def _costs(measured: dict[str, Any]) -> Iterator[str]:
    yield "## Seconds\n"
    yield (
        f"{measured['machine']}, torch {measured['torch']}; E2E NLG, 4,000 rows, 1.1M small, 4M "
        f"target.\n"
    )
    for dtype, found in measured["dtypes"].items():
        tuning = found["tuning"]
        yield f"{dtype}: tuning the target on all rows for {EPOCHS} epochs: {tuning:.0f} s.\n"
        yield (
            "| small model tuned | fine-tune | score | interpolate | verify | ratio | ratio, not "
            "verified |"
        )
        yield "| --- " * 7 + "|"
        for way, stages in found["ways"].items():
            parts = [stages.get(name, 0) for name in STAGES]
            texts = " | ".join(f"{part:.1f}" for part in parts)
            total, verify = sum(parts), parts[-1]
            yield f"| {way} | {texts} | {total / tuning:.3f} | {(total - verify) / tuning:.3f} |"
        yield ""
    yield "Ratio: selection (these four stages) to tuning the target on everything.\n"


def _worth(tasks: Mapping[str, Found]) -> Iterator[str]:
    """What fine-tuning the small model and verifying do to the coreset, over tasks."""
    yield "## Do fine-tuning the small model and verifying pay?\n"
    yield "Test loss without over that with, %, rows drawn at random within regions, keep 0.1; 95 %"
    yield "intervals over seeds and items (of 1 seed over items alone). Below 0: it does harm.\n"
    yield _head("without", tasks)
    for name, variant in WITHOUT.items():
        yield _row(name, tasks, variant, CURVES[VERIFIED][0])
    yield f"\n{MEAN}\n"


def _head(first: str, tasks: Mapping[str, Found]) -> str:
    return f"| {first} | {' | '.join(tasks)} | mean |\n" + "| --- " * (len(tasks) + 2) + "|"


def _row(name: str, tasks: Mapping[str, Found], variant: str, base: str) -> str:
    """The variant's loss over the base's, task by task and over the tasks that have all seeds."""
    cells = [_increase(found, variant, base) for found in tasks.values()]
    losses = {
        task: found.values["loss"]
        for task, found in tasks.items()
        if set(SEEDS) <= found.shared("loss", variant, "0.1", base)
    }
    mean = ""
    if len(losses) > 1:
        value, reach = over_tasks(losses, variant, base, list(losses), SEEDS)
        mean = _percent(value, value - reach, value + reach)
        if len(losses) < len(tasks):
            mean += f", {len(losses)} tasks"
    return f"| {name} | {' | '.join(cells)} | {mean} |"


def _percent(*logarithms: float) -> str:
    mean, low, high = (100 * (math.exp(value) - 1) for value in logarithms)
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def _increase(found: Found, variant: str, base: str) -> str:
    gap = found.percent(variant, minus=base)
    if gap is None:
        return ""
    seeds = len(found.shared("loss", variant, "0.1", base))
    mean, low, high = gap
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f}), {seeds} seed{'s' * (seeds > 1)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    timing = verbs.add_parser("measure", help="time the stages")
    timing.add_argument("--dtypes", nargs="+", default=["float32"], help="e.g. float32 bfloat16")
    showing = verbs.add_parser("report", help="tables")
    showing.add_argument("--write", action="store_true", help=f"also write {REPORT.name}")
    args = parser.parse_args()
    if args.verb == "measure":
        measure(args.dtypes)
        return
    text = "\n".join(report())
    print(text)
    if args.write:
        REPORT.write_text(text + "\n")


if __name__ == "__main__":
    main()
