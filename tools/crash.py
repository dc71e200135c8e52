"""Kill real runs at seeded instants, restart them, and compare what they leave byte by byte.

    python tools/crash.py [--kills 180] [--seed 0] [--write]

The command is `staff select` on 240 rows of the demo's data with the embedded family, each in a
process group of its own, every second one with coresets in Parquet. A run is killed up to eight
times and then left to finish; coresets, selection.parquet, scores and adapter must then be equal,
byte for byte, to those of an undisturbed run. Where a kill struck is derived from the killed run's
log and the files it left.
No work that was safe on disk may be repeated: tokens and complete shards keep their inode, and
fine-tuning resumes from the checkpoint that was there.
"""

import argparse
import hashlib
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from staff.demo import COLUMNS, SMALL, TARGET, TASK

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
REPORTS = {"fixed": RESULTS / "crash.md", "auto": RESULTS / "crash_rounds.md"}
ROWS, A_RUN = 240, 8
SETTINGS = (
    *("--keep", "0.1", "--keep", "0.3", "--regions", "6"),
    *("--epochs", "1", "--checkpoint-seconds", "0", "--batch-tokens", "512"),
    *("--dtype", "float32"),
)
VERIFY = {
    "fixed": ("--verify-per-region", "12", "--shard-rows=32"),
    # Several rounds of several parts each.
    "auto": (*("--verify-per-region", "auto", "--verify-tolerance", "0.006"), "--shard-rows=6"),
}
# Stage in the log -> where a kill struck; what is not here is start-up.
STAGES = {
    "fine-tune small": "optimiser step",
    "score small": "scoring",
    "verify on target": "verification",
    "write": "final writes",
}
# In this order within a run: each restart goes on to the next.
WANTED = {
    "fixed": ("optimiser step", "checkpoint write", "shard write", "verification", "final writes"),
    "auto": ("shard write", "verification", *["shard write of a round"] * 3, "final writes"),
}
TEMPORARY = {  # a file or folder that is there while the step lasts
    "checkpoint write": ".adapter.partial/.checkpoint.partial",
    "shard write": "scores/small/.part-*.part",
    "shard write of a round": "scores/target/.part-*.part",
    "final writes": ".[cms][oea]*.part",  # coresets, manifest, selection
}


@dataclass
class Outcome:
    """One kill: how, where it struck, and what the next start did."""

    signal: str
    where: str
    code: int = 0


@dataclass
class Campaign:
    """What is known so far."""

    data: Path
    whole: dict[str, dict[str, str]]  # by format
    verify: tuple[str, ...] = ()
    seconds: float = 0.0  # of an undisturbed run
    outcomes: list[Outcome] = field(default_factory=list)
    runs: int = 0


class Process:
    """The command in a process group, with its log as it comes."""

    def __init__(self, data: Path, out: Path, format: str, verify: tuple[str, ...]) -> None:
        columns = [f"--{k.replace('_', '-')}={v}" for k, v in COLUMNS.items()]
        self.out, self.lines = out, []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "staff", "select", str(data), "--small", str(SMALL),
             "--target", str(TARGET), "--out", str(out), "--format", format,
             *columns, *SETTINGS, *verify],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def stage(self) -> str:
        """The last stage that the log says has begun."""
        begun = [line.partition(":")[0] for line in self.lines if line.endswith("…")]
        return begun[-1] if begun else ""

    def running(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def there(self, pattern: str) -> bool:
        """Whether the run folder holds such a file."""
        return any(self.out.glob(pattern))

    def kill(self, how: signal.Signals) -> Outcome:
        """Send the signal to the whole group; where it struck is what the files then say."""
        os.killpg(self.process.pid, how)
        code = self.process.wait(timeout=300)
        self.reader.join(timeout=60)
        where = STAGES.get(self.stage(), "start-up")
        for name, pattern in TEMPORARY.items():
            if how == signal.SIGKILL and self.there(pattern):
                where = name
        return Outcome(how.name, where, code)


def strike(
    process: Process, aim: str, how: signal.Signals, chance: random.Random, seconds: float
) -> Outcome | None:
    """Wait for the instant that is aimed at and kill; None if the run was done before.

    seconds: within which any instant lies.
    """
    pattern = TEMPORARY.get(aim)
    if aim == "any instant":
        deadline = time.monotonic() + chance.uniform(0, seconds)
        while process.running() and time.monotonic() < deadline:
            time.sleep(0.002)
    elif pattern:
        skip = chance.randrange(4)  # not always the first of its kind
        while process.running():
            if process.there(pattern):
                if skip == 0:
                    break
                skip -= 1
                while process.running() and process.there(pattern):
                    time.sleep(0.0002)
            time.sleep(0.0002)
        time.sleep(chance.uniform(0, 0.002))
    else:
        name = next(stage for stage, where in STAGES.items() if where == aim)
        while process.running() and process.stage() != name:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.6 if aim == "optimiser step" else 0.15))
    return process.kill(how) if process.running() else None


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of everything that must be the same."""
    patterns = ("coreset-*", "selection.parquet", "scores/*/part-*.parquet", "adapter/*")
    files = [path for pattern in patterns for path in sorted(out.glob(pattern))]
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def safe(out: Path) -> tuple[dict[Path, int], int]:
    """What a restart must not do again: tokens and shards by inode, the checkpoint's step."""
    written = [*out.glob("scores/*/part-*.parquet")]
    if (out / "tokens" / "prepared.json").is_file():
        written += out.glob("tokens/*.arrow")
    shards = {path: path.stat().st_ino for path in written}
    steps = [int(p.parent.name[11:]) for p in out.glob(".adapter.partial/checkpoint-*/staff.json")]
    return shards, max(steps, default=0)


def one_run(
    campaign: Campaign,
    out: Path,
    aims: list[tuple[str, signal.Signals]],
    seed: int,
    format: str,
) -> None:
    """Kill a run at each of these, then let it finish; raises SystemExit for any difference."""
    chance = random.Random(seed)
    shards: dict[Path, int] = {}
    step = 0
    for aim, how in [*aims, (None, None)]:
        process = Process(campaign.data, out, format, campaign.verify)
        outcome = strike(process, aim, how, chance, campaign.seconds) if aim else None
        if outcome is None:
            process.process.wait(timeout=600)
            process.reader.join(timeout=60)
        log = "\n".join(process.lines)
        if "Traceback" in log or (outcome is None and process.process.returncode):
            raise SystemExit(f"{out}, seed {seed}, {aim}: {log}")
        if step and "fine-tune small:" in log and f"resumes after step {step} of" not in log:
            began = [line for line in process.lines if line.startswith("fine-tune small")]
            if len(began) > 1 or outcome is None:
                raise SystemExit(f"{out}, seed {seed}: checkpoint {step} was not used: {log}")
        for path, inode in shards.items():
            if path.exists() and path.stat().st_ino != inode:
                raise SystemExit(f"{out}, seed {seed}: {path} was written twice: {log}")
        if outcome is not None:
            # 0: it was just done. -15, -2: Python itself had not begun, or had ended.
            expected = {"SIGKILL": (-9,), "SIGTERM": (143, -15), "SIGINT": (130, -2)}
            if outcome.code not in (*expected[outcome.signal], 0):
                raise SystemExit(f"{out}, seed {seed}: {outcome.signal} gave {outcome.code}: {log}")
            campaign.outcomes.append(outcome)
        shards, step = safe(out)
        if outcome is None:
            break
    found = digests(out)
    if found != campaign.whole[format]:
        wrong = sorted({*found.items()} ^ {*campaign.whole[format].items()})
        raise SystemExit(f"{out}, seed {seed}: other bytes than undisturbed: {wrong}")
    left = [p for p in out.rglob(".*") if p.name.endswith((".part", ".partial"))]
    if left:
        raise SystemExit(f"{out}, seed {seed}: left behind: {left}")
    campaign.runs += 1


def schedule(
    kills: int, wanted: tuple[str, ...], chance: random.Random
) -> list[list[tuple[str, signal.Signals]]]:
    """Runs of up to `A_RUN` kills: every place a tenth of all at least, then any instant."""
    runs = []
    each = max(1, -(-kills // 8))
    aimed = {name: each * wanted.count(name) for name in wanted}
    left = kills - sum(aimed.values())
    while sum(aimed.values()) or left > 0:
        run = []
        for name in aimed:
            for _ in range(min(aimed[name], chance.choice((1, 1, 2)))):
                run.append((name, signal.SIGKILL))
                aimed[name] -= 1
        for _ in range(min(left, max(1, A_RUN - len(run)))):
            run.insert(chance.randrange(len(run) + 1), ("any instant", signal.SIGKILL))
            left -= 1
        for how in (signal.SIGTERM, signal.SIGINT):  # beside the kills
            if chance.random() < 0.5:
                run.insert(chance.randrange(len(run) + 1), ("any instant", how))
        runs.append(run)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=180)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--verify", choices=VERIFY, default="fixed", help="how rows are verified")
    parser.add_argument("--write", action="store_true", help="write the record")
    args = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="staff-crash-") as scratch:
        data = Path(scratch) / "train.jsonl"
        lines = (TASK / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        data.write_text("".join(lines[:ROWS]), encoding="utf-8")
        campaign = Campaign(data, {}, VERIFY[args.verify])
        for name, format in (("whole", "jsonl"), ("again", "jsonl"), ("table", "parquet")):
            begun = time.monotonic()
            one = Process(data, Path(scratch) / name, format, campaign.verify)
            if one.process.wait(timeout=600):
                raise SystemExit("\n".join(one.lines))
            campaign.seconds = time.monotonic() - begun
        campaign.whole["jsonl"] = digests(Path(scratch) / "whole")
        campaign.whole["parquet"] = digests(Path(scratch) / "table")
        if digests(Path(scratch) / "again") != campaign.whole["jsonl"]:
            raise SystemExit("two undisturbed runs differ")
        plan = schedule(args.kills, WANTED[args.verify], random.Random(args.seed))

        def do(number: int) -> None:
            out = Path(scratch) / f"run-{number}"
            format = ("jsonl", "parquet")[number % 2]
            one_run(campaign, out, plan[number], seed=args.seed * 1000 + number, format=format)
            shutil.rmtree(out)
            print(f"{campaign.runs} of {len(plan)} runs: {tally(campaign)}", flush=True)

        with ThreadPoolExecutor(args.jobs) as pool:
            for _ in pool.map(do, range(len(plan))):
                pass
    text = report(args, campaign, time.monotonic() - start)
    print(text)
    check_places(campaign, WANTED[args.verify], least=10 if args.kills >= 100 else 0)
    if args.write:
        REPORTS[args.verify].write_text(text, encoding="utf-8")


def check_places(campaign: Campaign, wanted: tuple[str, ...], *, least: int) -> None:
    """Raise SystemExit if the kills were not where they were to be."""
    where = Counter(o.where for o in campaign.outcomes if o.signal == "SIGKILL")
    few = [name for name in wanted if where[name] < least]
    if few or 3 * where["start-up"] > where.total():
        raise SystemExit(f"too few kills in {few}, or too many during start-up: {where}")


def tally(campaign: Campaign) -> dict[str, int]:
    return dict(Counter(f"{o.where}, {o.signal}" for o in campaign.outcomes))


def report(args: argparse.Namespace, campaign: Campaign, seconds: float) -> str:
    killed = [o for o in campaign.outcomes if o.signal == "SIGKILL"]
    where = Counter(o.where for o in killed)
    others = Counter(o.signal for o in campaign.outcomes if o.signal != "SIGKILL")
    lines = [
        "# Killed and restarted",
        "",
        f"`python tools/crash.py --kills {args.kills} --seed {args.seed} --verify {args.verify} "
        f"--write`, {time.strftime('%Y-%m-%d')}, {seconds / 60:.0f} minutes, "
        f"{platform.machine()}, {os.cpu_count()} CPUs",
        "",
        f"{campaign.runs} runs of `staff select` on {ROWS} rows (half of them with coresets in "
        f"Parquet), killed {len(killed)} times with SIGKILL and stopped {sum(others.values())} "
        f"times ({', '.join(f'{n} {s}' for s, n in sorted(others.items()))}), then left to finish. "
        "Each ended with the same bytes as an undisturbed run: coresets, selection.parquet, "
        "scores, adapter. No tokens and no complete shard were written twice, and fine-tuning "
        "resumed from the checkpoint on disk, at most one step back; no temporary file was left.",
        "",
        "| where SIGKILL struck | times |",
        "| --- | --- |",
        *(f"| {name} | {count} |" for name, count in where.most_common()),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
