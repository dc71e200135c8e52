"""Time and peak memory of selection alone: D2 and k-centre on features, STAFF and CCS on scores.

    python benchmarks/selection.py [--scale 0.1] [--threads 2] [--write]

Each case runs in a fresh process, whose peak includes interpreter, libraries and input. Features
are 200 Gaussian clusters in 384 dimensions, scores log-normal; the verified rows' target scores
are looked up. D2's time includes its neighbour graph.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from written import command_line, machine

RESULTS = Path(__file__).parent / "results" / "selection.md"
WIDTH, CLUSTERS, KEEP = 384, 200, 0.1
# name: rows, allowed seconds, allowed GB
CASES = {
    "d2": (50_000, 120, 1.0),
    "k-centre": (50_000, 120, 1.0),
    "moderate": (50_000, 120, 1.0),
    "staff": (10_000_000, 10, 2.0),
    "ccs": (10_000_000, 10, 2.0),
}


def make_features(n: int) -> Any:
    """float32 [n, 384]."""
    random = np.random.default_rng(0)
    features = random.standard_normal((n, WIDTH), dtype=np.float32)
    centres = random.standard_normal((CLUSTERS, WIDTH), dtype=np.float32)
    features += centres[random.integers(0, CLUSTERS, n)]
    return features


def job(name: str, n: int) -> Callable[[], Any]:
    """The call to time, its input made already."""
    from staff.selectors import (
        select_ccs,
        select_d2,
        select_k_centre,
        select_moderate,
        select_staff,
    )

    total = int(KEEP * n)
    keys = np.random.default_rng(1).permutation(n).astype(np.uint64)
    if name == "k-centre":
        features = make_features(n)
        return lambda: select_k_centre(features=features, total=total, keys=keys)
    if name == "moderate":
        features = make_features(n)
        return lambda: select_moderate(features=features, total=total, keys=keys)
    if name == "d2":
        from staff.scores.neighbours import nearest

        features, scores = make_features(n), np.random.default_rng(2).lognormal(size=n)
        return lambda: select_d2(
            scores=scores,
            connect=lambda rows: nearest(features[rows], 10),
            total=total,
            keys=keys,
        )
    scores = np.random.default_rng(2).lognormal(sigma=0.5, size=n)
    if name == "ccs":
        return lambda: select_ccs(scores=scores, total=total, keys=keys)
    return lambda: select_staff(
        scores=scores, total=total, verify=lambda rows: 2 * scores[rows], keys=keys
    )


def measure(name: str, n: int) -> dict[str, float]:
    """In this process: seconds of the call, peak resident memory in GB."""
    from staff.planning import peak

    call = job(name, n)
    start = time.monotonic()
    rows = call().rows
    seconds = time.monotonic() - start
    assert len(rows) == int(KEEP * n)
    return {"seconds": seconds, "gb": peak.read("cpu") / (1 << 30)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="a fraction of the rows")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", choices=sorted(CASES), nargs="+", default=list(CASES))
    parser.add_argument("--write", action="store_true", help=f"also write {RESULTS.name}")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, n = arguments.measure
        print(json.dumps(measure(name, int(n))))
        return
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(arguments.threads))
    lines = [
        "| method | rows | keep | seconds | limit | peak GB | limit |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in arguments.only:
        rows, seconds, gb = CASES[name]
        n = int(rows * arguments.scale)
        command = [sys.executable, __file__, "--measure", name, str(n)]
        run = subprocess.run(command, capture_output=True, check=True, env=environment)
        found = json.loads(run.stdout)
        what = f"{n:,}" if rows > 10**6 else f"{n:,} × {WIDTH}"
        lines.append(
            f"| {name} | {what} | {KEEP} | {found['seconds']:.1f} | {seconds} "
            f"| {found['gb']:.2f} | {gb} |"
        )
        print(lines[-1], flush=True)
    if arguments.write:
        about = machine(f"{arguments.threads} threads", also=("numpy",))
        head = f"# Selection alone\n\n`{command_line(__file__)}`, {date.today()}\n\n"
        RESULTS.write_text(f"{head}{about}\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
