"""Where `staff select` spends its time: stages, functions and, in fine-tuning, operators.

The demo's selection (4,000 rows of E2E NLG) and 1,000 rows of DialogSum, both with the embedded
family, on one thread: under cProfile, by CPU time, so that other programs do not count. Then a few
steps of fine-tuning the embedded target under torch.profiler.

  python benchmarks/profiling.py --data DIR --write   # writes benchmarks/results/profile.md
  python benchmarks/profiling.py --rows 50            # a quick look, without DialogSum

DIR as for grid.py. (A file named profile.py would shadow a module of Python's own.)
"""

import argparse
import cProfile
import os
import pstats
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

from staff import demo, pipeline
from staff.data.files import open_source
from staff.data.store import TokenStore
from staff.models.device import choose_dtype
from staff.runs.config import SelectConfig
from staff.stages import reading
from staff.stages.facts import tokenisers_of
from staff.training.timing import time_steps
from tasks import write_task
from written import command_line, machine

RESULTS = Path(__file__).parent / "results" / "profile.md"
TOP = 14
# What should happen once a model or a row: file and name of a function -> what a call is.
COUNTED = {
    ("models/load.py", "load_model"): "models loaded",
    ("models/load.py", "load_tokenizer"): "tokenizers loaded",
    ("models/folder.py", "model_hashes"): "models hashed (or their stored hash read)",
    ("data/tokenise.py", "_finish"): "rows tokenised",
    ("training/trainer.py", "training_step"): "optimiser steps",
    ("scores/effort.py", "__call__"): "batches scored",
}


def select(task: str, path: Path, out: Path) -> tuple[str, list[str]]:
    """A heading and the lines that say where a selection spent its time."""
    settings = demo.selection(out / "run").model_dump()
    settings |= {"data": str(path), "prompt_column": None, "response_column": None}
    config = SelectConfig.model_validate(settings)
    profiler = cProfile.Profile(time.process_time)
    manifest = profiler.runcall(pipeline.select, config)
    stats = pstats.Stats(profiler)
    total = stats.total_tt  # type: ignore[attr-defined]
    read = next(stage for stage in manifest["stages"] if stage["name"] == "read")
    rows, tokens = read["rows"], read["tokens"]
    head = f"## {task}: {rows} rows, {tokens} tokens; {total:.1f} s of CPU time"
    return head, [*stage_lines(manifest), "", *function_lines(stats, total), "", *counts(stats)]


def stage_lines(manifest: Mapping[str, Any]) -> list[str]:
    """Share of the whole of each stage, by the clock."""
    found = [stage for stage in manifest["stages"] if stage["seconds"] >= 0.005]
    whole = sum(stage["seconds"] for stage in manifest["stages"])
    return [
        "| stage | seconds | share |",
        "| --- | --- | --- |",
        *(
            f"| {stage['name']} | {stage['seconds']:.2f} | {100 * stage['seconds'] / whole:.1f} % |"
            for stage in found
        ),
    ]


def function_lines(stats: pstats.Stats, total: float) -> list[str]:
    """The functions that take most themselves, without what they call."""
    entries = sorted(entries_of(stats).items(), key=lambda pair: -pair[1][2])[:TOP]
    return [
        "| function, without what it calls | calls | share of CPU time |",
        "| --- | --- | --- |",
        *(
            f"| `{name_of(where)}` | {calls} | {100 * own / total:.1f} % |"
            for where, (_, calls, own, *_) in entries
        ),
    ]


def counts(stats: pstats.Stats) -> list[str]:
    """How often things were done that should be done once."""
    lines = []
    for (file, name), what in COUNTED.items():
        calls = sum(
            entry[1]
            for (path, _, function), entry in entries_of(stats).items()
            if path.endswith(f"staff/{file}") and function == name
        )
        lines.append(f"{what}: {calls}")
    return ["; ".join(lines) + "."]


def entries_of(stats: pstats.Stats) -> dict[tuple[str, int, str], tuple[Any, ...]]:
    """(file, line, function) -> (primitive calls, calls, own seconds, seconds, callers)."""
    return stats.stats  # type: ignore[attr-defined]


def name_of(where: tuple[str, int, str]) -> str:
    """A function without the folders that are the same everywhere."""
    file, _, function = where
    place = file.partition("site-packages/")[2] or file.partition("src/")[2] or Path(file).name
    return function if file == "~" else f"{place}:{function}"


def finetuning(dtype: str, steps: int, out: Path) -> list[str]:
    """Operators of `steps` fine-tuning steps of the embedded target on the demo's rows."""
    config = demo.selection(out / "run")
    readers = tokenisers_of((str(demo.TARGET),), max_length=None)
    source = open_source(str(config.data))
    store: TokenStore = reading.read(config, source, readers, folder=out, progress=None).stores[0]
    rows = np.random.default_rng(0).permutation(len(store))
    batches = [rows[start : start + 8] for start in range(0, 8 * steps, 8)]

    def train() -> None:
        time_steps(
            str(demo.TARGET), store, batches, batch_size=8, learning_rate=1e-3,
            dtype=dtype, device="cpu",
        )  # fmt: skip

    train()  # warms up
    with torch_profile(activities=[ProfilerActivity.CPU]) as profiler:
        train()
    events = [e for e in profiler.key_averages() if e.self_cpu_time_total > 0]
    whole = sum(event.self_cpu_time_total for event in events)
    events.sort(key=lambda event: -event.self_cpu_time_total)
    return [
        f"### Operators of {steps} steps on batches of 8, {dtype}\n",
        "| operator | calls | share |",
        "| --- | --- | --- |",
        *(
            f"| `{event.key}` | {event.count} | {100 * event.self_cpu_time_total / whole:.1f} % |"
            for event in events[:TOP]
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rows", type=int, default=4000, help="of the demo's, at most")
    parser.add_argument("--steps", type=int, default=12, help="under torch.profiler")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # profiled is one thread
    warnings.simplefilter("ignore", FutureWarning)  # PEFT and transformers about each other
    lines = []
    tasks = {"e2e_demo": args.rows} | ({"dialogsum": min(args.rows, 1000)} if args.data else {})
    for task, rows in tasks.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = write_task(task, args.data, Path(scratch) / task, rows=rows)
            head, found = select(task, folder / "train.jsonl", Path(scratch))
        lines += [head, "", *found, ""]
        print("\n".join(lines[-len(found) - 2 :]), flush=True)
    lines += ["## Fine-tuning the target", ""]
    half = choose_dtype("auto", torch.device("cpu")) == torch.bfloat16
    for dtype in ("float32", "bfloat16") if half else ("float32",):
        with tempfile.TemporaryDirectory() as scratch:
            lines += [*finetuning(dtype, args.steps, Path(scratch)), ""]
    about = (
        f"{machine('one thread')}, {precision()}. Stages in wall-clock time, including the "
        "profiler; functions in CPU time."
    )
    text = "\n".join([about, "", *lines])
    sys.stdout.write(text)
    if args.write:
        command = command_line(__file__, data=args.data)
        RESULTS.write_text(
            f"# Where the time goes\n\n`{command}`, {date.today()}\n\n{text}", encoding="utf-8"
        )


def precision() -> str:
    """The precision that `--dtype auto` comes to here."""
    return str(choose_dtype("auto", torch.device("cpu"))).removeprefix("torch.")


if __name__ == "__main__":
    main()
