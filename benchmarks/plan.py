"""How far the estimates of `staff plan --probe` are from the real run: time and memory by stage.

    python benchmarks/plan.py --data DIR [--sets gsm8k clinc150] [--rows 300] [--cpu-time] [--write]

DIR contains a folder with train.jsonl for each set; rows are taken at even distances. The plan, the
selection and the fine-tuning of the target on all rows run one after the other, each in processes
of its own, with the embedded family. The seconds of a stage are those of the run's own ledger; of a
selection and a fine-tuning as a whole they are those of their processes, start and reading
included, as in the plan. Peaks are of resident memory from the end of one stage to that of the
next, so on Linux only. Other work on the machine affects one or the other: the load is printed.
With --cpu-time, both sides are CPU time: the same as wall-clock
time with one thread and nothing else running, and the only comparable figures on a busy machine.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from written import machine

RESULTS = Path(__file__).parent / "results"
COLUMNS = {
    "medquad": {"prompt_column": "question", "response_column": "answer"},
    "clinc150": {"prompt_column": "text", "response_column": "intent"},
    "gsm8k": {"prompt_column": "question", "response_column": "answer"},
    "dialogsum": {"prompt_column": "dialogue", "response_column": "summary"},
    "e2e_nlg": {"prompt_column": "mr", "response_column": "ref"},
}
STAGES = ("tune small", "score small", "verify", "tune target")
SECONDS, MEMORY = 0.25, 0.15  # how far off a plan may be


class Watch:
    """A `Progress` that notes the peak memory of each stage, and when the last one ended."""

    def __init__(self) -> None:
        from staff.planning import peak

        self.found: dict[str, int] = {}
        peak.reset("cpu")
        self.last = self.before = time.monotonic()

    @contextmanager
    def stage(self, name: str, **_: Any) -> Iterator[Any]:
        """Note a stage at its end."""
        from staff.planning import peak
        from staff.progress import SilentProgress

        with SilentProgress().stage(name) as stage:
            yield stage
        self.found[name] = peak.read("cpu")
        peak.reset("cpu")
        self.before, self.last = self.last, time.monotonic()


def foretell(settings: dict[str, Any], cpu_time: bool) -> dict[str, Any]:
    """Stage -> what the plan says of it; "selection" and "tuning" as a whole."""
    from staff.planning import estimate
    from staff.planning.probe import _probe_selection, _probe_tuning
    from staff.runs.plan_config import PlanConfig

    def clocked(config: Any, small: Path, target: Path, **_: Any) -> dict[str, Any]:
        found = apart(cpu_time, _probe_selection, config, small, target, start(cpu_time))
        return found | apart(cpu_time, _probe_tuning, config, target, start(cpu_time))

    estimate.probe = clocked  # the same processes, by our clock
    plan = estimate.estimate(PlanConfig(**settings, probe=True))
    found = {stage["kind"]: stage for stage in plan["stages"] if stage["kind"] in STAGES}
    rows = plan["data"]["usable_rows"]
    return found | {name: {**plan[name], "rows": rows} for name in ("selection", "tuning")}


def start(cpu_time: bool) -> float:
    """The time at which a process that is started now begins, by its clock."""
    return 0.0 if cpu_time else time.monotonic()


def select(settings: dict[str, Any], out: str, since: float) -> dict[str, Any]:
    """Stage -> (seconds, peak, rows) of a real selection, and of all of it."""
    from staff import pipeline
    from staff.runs.config import SelectConfig

    watch = Watch()
    manifest = pipeline.select(SelectConfig(**settings, out=out), progress=watch)
    names = {"fine-tune small": "tune small", "verify on target": "verify"}
    found = {
        names.get(stage["name"], stage["name"]): (
            stage["seconds"],
            watch.found[stage["name"]],
            stage["rows"],
        )
        for stage in manifest["stages"]
        if names.get(stage["name"], stage["name"]) in STAGES and stage["name"] in watch.found
    }  # without verification where no region is large enough
    most = max(memory for _, memory, _ in found.values())
    return found | {"selection": (time.monotonic() - since, most, manifest["data"]["rows_usable"])}


def tune(settings: dict[str, Any], out: str, since: float) -> dict[str, Any]:
    """The same of tuning the target on all rows."""
    from staff import single
    from staff.runs.config import FinetuneConfig

    config = {k: v for k, v in settings.items() if k not in ("small", "target", "keep")}
    watch = Watch()
    found = single.finetune(
        FinetuneConfig(**config, model=settings["target"], out=out), progress=watch
    )
    # From the end of what comes before, hashing the model, to that of all.
    now, memory = time.monotonic(), watch.found["fine-tune"]
    return {
        "tune target": (now - watch.before, memory, found["rows"]),
        "tuning": (now - since, memory, found["rows"]),
    }


def apart(cpu_time: bool, work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_clocked, cpu_time, work, *arguments).result()


def _clocked(cpu_time: bool, work: Callable[..., Any], *arguments: Any) -> Any:
    if cpu_time:
        time.monotonic = time.process_time
    return work(*arguments)


def compare(name: str, data: Path, rows: int, *, cpu_time: bool) -> list[list[str]]:
    """The rows of the table for one data set."""
    family = Path(__file__).parents[1] / "src" / "staff" / "assets" / "family"
    lines = (data / name / "train.jsonl").read_text(encoding="utf-8").splitlines()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "rows.jsonl"
        chosen = lines[:: max(1, len(lines) // rows)][:rows]
        path.write_text("".join(f"{line}\n" for line in chosen), encoding="utf-8")
        settings = {
            "data": str(path),
            "small": str(family / "small"),
            "target": str(family / "target"),
            "keep": (0.1,),
            "on_bad_row": "skip",
            **COLUMNS[name],
        }
        plan = apart(False, foretell, settings, cpu_time)
        began = start(cpu_time)
        real = apart(cpu_time, select, settings, str(Path(scratch) / "run"), began)
        began = start(cpu_time)
        real |= apart(cpu_time, tune, settings, str(Path(scratch) / "tuned"), began)
    plan["tuning"]["memory"] = plan["tune target"]["memory"]
    return [
        _line(name, kind, plan[kind], *real[kind])
        for kind in (*STAGES, "selection", "tuning")
        if kind in real
    ]


def _line(
    name: str, kind: str, plan: dict[str, Any], seconds: float, memory: int, rows: int
) -> list[str]:
    """The cells of one stage; a star if the error is larger than allowed."""

    def off(told: float, real: float, allowed: float) -> str:
        share = told / real - 1
        return f"{share:+.0%}{'' if abs(share) <= allowed else ' *'}"

    return [
        *(name, kind, f"{plan['rows']:,}", f"{rows:,}"),
        *(f"{plan['seconds']:.1f}", f"{seconds:.1f}", off(plan["seconds"], seconds, SECONDS)),
        *(f"{plan['memory'] / 1e6:.0f}", f"{memory / 1e6:.0f}"),
        off(plan["memory"], memory, MEMORY),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=COLUMNS, default=["gsm8k", "clinc150"])
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU time instead of wall-clock time"
    )
    parser.add_argument("--write", action="store_true", help="also write results/plan*.md")
    args = parser.parse_args()
    titles = ["data", "stage", "rows planned", "real", "s planned", "real", "error"]
    titles += ["MB planned", "real", "error"]
    table = ["| " + " | ".join(titles) + " |", "| --- " * len(titles) + "|"]
    loads = [os.getloadavg()[0]]
    for name in args.sets:
        for cells in compare(name, args.data, args.rows, cpu_time=args.cpu_time):
            table.append("| " + " | ".join(cells) + " |")
            print(table[-1], flush=True)
        loads.append(os.getloadavg()[0])
    spread = f"{min(loads):.1f} to {max(loads):.1f}"
    text = "\n".join(
        [
            "# Estimates of `staff plan --probe` and the real run\n",
            f"`python benchmarks/plan.py --data DIR --sets {' '.join(args.sets)} --rows "
            f"{args.rows}{' --cpu-time' * args.cpu_time}`, {machine()}, "
            f"load {spread} (1 of it from this); embedded family (1.1M, 4M), defaults otherwise; "
            f"seconds of {'CPU' if args.cpu_time else 'wall-clock'} time.\n",
            *table,
            "",
            f"*: error above {SECONDS:.0%} in time or {MEMORY:.0%} in memory.",
        ]
    )
    print(f"\n{text}")
    if args.write:
        name = "plan.md" if args.cpu_time else "plan-clock.md"
        (RESULTS / name).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
