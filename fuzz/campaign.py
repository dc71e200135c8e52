"""Fuzz every target for its number of executions, and record it: python fuzz/campaign.py --write.

Each target is run.py in a process of its own (records in several, which share what they learn);
the first finding ends the campaign. Uses a file system in memory if there is one, because each
execution writes files and flushes them.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
REPORT = HERE.parent / "benchmarks" / "results" / "fuzz.md"
RUNS = {"records": 1_000_000, "configs": 100_000, "run_folders": 10_000, "reports": 1_000}
WHAT = {
    "records": "data files: JSON, JSONL, CSV, TSV, Parquet, Arrow, gzip, zstd; every record format",
    "configs": "YAML settings of every command",
    "run_folders": "finished runs with a changed manifest or table: report, why, --scores",
    "reports": "summary and page of a run with a changed manifest",
}
STATS = {
    "runs": r"stat::number_of_executed_units:\s*(\d+)",
    "rss": r"stat::peak_rss_mb:\s*(\d+)",
    "slowest": r"stat::slowest_unit_time_sec:\s*(\d+)",
    "edges": r"cov: (\d+)",
    "corpus": r"corp: (\d+)/",
}


def fuzz(target: str, runs: int) -> dict[str, int]:
    """Run one process; its figures. Raises SystemExit with its log if it found something."""
    scratch = Path("/dev/shm")
    env = {**os.environ, **({"TMPDIR": str(scratch)} if scratch.is_dir() else {})}
    command = [sys.executable, str(HERE / "run.py"), target, "--runs", str(runs)]
    start = time.monotonic()
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        raise SystemExit(f"{target}: {done.stderr[-6000:]}")
    found = {name: re.findall(pattern, done.stderr) for name, pattern in STATS.items()}
    figures = {name: int(values[-1]) if values else 0 for name, values in found.items()}
    return {**figures, "seconds": round(time.monotonic() - start)}


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--share", type=float, default=1.0, help="of the executions, for a trial")
    parser.add_argument("--write", action="store_true", help=f"write {REPORT.name}")
    args = parser.parse_args()
    parts = [(t, max(1, int(runs * args.share))) for t, runs in RUNS.items()]
    parts[:1] = [("records", -(-parts[0][1] // args.jobs))] * args.jobs
    with ThreadPoolExecutor(args.jobs) as pool:
        results = list(pool.map(lambda part: fuzz(*part), parts))
    lines = [
        "# Fuzzing",
        "",
        f"`python fuzz/campaign.py --write` (`make fuzz`), {time.strftime('%Y-%m-%d')}, "
        f"{platform.machine()}, {os.cpu_count()} CPUs, {args.jobs} of them used, Atheris "
        f"{version('atheris')}",
        "",
        "No execution raised anything but a `StaffError` or took more than a second of processor "
        "time, and no process grew above 500 MB: any of these would end the campaign.",
        "",
        "| target | inputs made from the bytes | executions | minutes | branches | largest MB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for target in RUNS:
        own = [r for (name, _), r in zip(parts, results, strict=True) if name == target]
        lines.append(
            f"| {target} | {WHAT[target]} | {sum(r['runs'] for r in own):,} | "
            f"{max(r['seconds'] for r in own) / 60:.0f} | {max(r['edges'] for r in own):,} | "
            f"{max(r['rss'] for r in own)} |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    if args.write:
        REPORT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
