"""How much faster two processes are than one, stage by stage.

    python benchmarks/processes.py            # prints the table
    python benchmarks/processes.py --write    # also writes benchmarks/results/processes.md
    python benchmarks/processes.py --rows 64 --repeats 1   # a quick look

`staff select` and `staff score` on rows of the demo's data with the embedded family, in one process
and in N with torchrun, in turn; every process computes with one thread, so that N processes have
N times the threads of one. Seconds of a stage are from the manifest (including loading the model
and waiting for the others); "whole command" is wall-clock time, including Python's start and
imports. Figures are medians; efficiency is the time of one process over N times that of N.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import median

from staff.demo import SMALL, TARGET, TASK
from written import command_line, machine

RESULTS = Path(__file__).parent / "results" / "processes.md"
WHOLE = "whole command"
COLUMNS = ["--prompt-column", "mr", "--response-column", "ref", "--dtype", "float32"]
COMMANDS = {
    "select": ["--small", str(SMALL), "--target", str(TARGET), "--keep", "0.1", "--epochs", "1"],
    "score": ["--model", str(TARGET)],
}
STAGES = {"select": ("fine-tune small", "score small", "verify on target"), "score": ("score",)}


def run(command: list[str], out: Path, processes: int) -> dict[str, float]:
    """Seconds of every stage of one run, and of the whole command."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    begun = time.perf_counter()
    done = subprocess.run(
        [*start, "-m", "staff", *command, "--device", "cpu", "--quiet", "--out", str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    whole = time.perf_counter() - begun
    stages = json.loads((out / "manifest.json").read_text())["stages"]
    return {stage["name"]: stage["seconds"] for stage in stages} | {WHOLE: whole}


def measure(args: argparse.Namespace) -> dict[tuple[str, str], dict[int, float]]:
    """(command, stage) -> number of processes -> median seconds."""
    found: dict[tuple[str, str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "train.jsonl"
        rows = (TASK / "train.jsonl").read_text(encoding="utf-8").splitlines()[: args.rows]
        data.write_text("\n".join(rows) + "\n", encoding="utf-8")
        # Parts small enough that all processes have some.
        shared = [str(data), *COLUMNS, "--shard-rows", str(max(1, args.rows // 16))]
        for repeat in range(args.repeats):
            for name, own in COMMANDS.items():
                for processes in (1, args.processes):
                    out = Path(scratch) / f"{name}-{processes}-{repeat}"
                    took = run([name, *shared, *own], out, processes)
                    for stage in (*STAGES[name], WHOLE):
                        found.setdefault((name, stage, processes), []).append(took[stage])
    medians: dict[tuple[str, str], dict[int, float]] = {}
    for (name, stage, processes), seconds in found.items():
        medians.setdefault((name, stage), {})[processes] = median(seconds)
    return medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS}")
    args = parser.parse_args()
    n = args.processes
    lines = [
        f"| command | stage | 1 process, s | {n} processes, s | times as fast | efficiency |",
        "| --- " * 6 + "|",
    ]
    for (name, stage), seconds in measure(args).items():
        one, several = seconds[1], seconds[n]
        if not several:
            continue  # too few rows for anything to be verified
        gain = f"{one / several:.2f} | {one / several / n:.2f}"
        lines.append(f"| {name} | {stage} | {one:.2f} | {several:.2f} | {gain} |")
    setting = (
        f"{args.rows} rows of E2E NLG, the embedded family (1.1M and 4M parameters), one epoch, "
        f"medians of {args.repeats}; gloo over the loopback device; CPU only: no GPU was measured"
    )
    about = machine(f"{os.cpu_count()} CPUs, one thread per process")
    text = "\n".join([setting, "", about, "", *lines, ""])
    sys.stdout.write(text)
    if args.write:
        command = command_line(__file__)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(
            f"# Several processes against one\n\n`{command}`, {date.today()}\n\n{text}",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
