"""The grid's ratios V_i from the easiest region to the hardest, and small against target scores.

    python benchmarks/grid.py --store STORE run --data DIR --work WORK --tasks cogs snips \\
        --keep 0.1 --variants staff random-epochs-0 --no-full --no-generate
    python benchmarks/regions.py --work WORK [--write]   # what WORK has, beside what is known
    python benchmarks/regions.py [--write]

The first does the selections again in WORK (with a STORE of its own: cells that are in the store
are not done again); the second takes from their manifests what is told here, into
results/regions.json. Nothing is computed.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from staff.runs.manifest import read_manifest
from tasks import TASKS

RESULTS = Path(__file__).parent / "results"
KNOWN, REPORT = RESULTS / "regions.json", RESULTS / "regions.md"
# How the small model was tuned and rows scored -> variants that have these scores and verify.
SCORES = {
    "T = 3": ("staff", "within-random"),
    "T = 1": ("epochs-1", "random-epochs-1"),
    "T = 3 on 30 %": ("tune-0.3", "random-tune-0.3"),
    "T = 0": ("epochs-0", "random-epochs-0"),
    "T = 3, scores of 30 %": ("random-score-0.3",),
    "T = 0, scores of 30 %": ("random-epochs-0-score-0.3",),
}


def collect(work: Path) -> dict[str, Any]:
    """Task, scores and seed -> what the manifest in a grid's work folder says of them."""
    found = {}
    for task in TASKS:
        for block in sorted((work / task).glob("seed*-*")):
            seed = block.name.partition("-")[0].removeprefix("seed")
            for scores, variants in SCORES.items():
                folders = [block / name for name in variants]
                done = next((f for f in folders if (f / "manifest.json").is_file()), None)
                if done:
                    found[f"{task}, {scores}, seed {seed}"] = _told(done, task, scores, int(seed))
    return found


def _told(folder: Path, task: str, scores: str, seed: int) -> dict[str, Any]:
    manifest = read_manifest(folder)
    proxy = manifest["proxy"]
    ratios = [region["ratio"] for region in manifest["regions"] if region["verified"]]
    return {
        "task": task,
        "scores": scores,
        "seed": seed,
        "ratios": [round(ratio, 3) for ratio in ratios if ratio is not None],
        "rows": proxy["rows"],
        "spearman": round(proxy["spearman"], 3),
        "interval": [round(end, 3) for end in proxy["interval"] or ()],
        "moved": round(proxy["budget_moved"]["0.1"], 3),
        "made": manifest["created"][:10],
    }


def report(known: dict[str, Any]) -> Iterator[str]:
    """The tables as Markdown."""
    runs = sorted(known.values(), key=_place)
    yield "# V_i by region, and small against target scores\n"
    yield "`python benchmarks/regions.py --work WORK --write`; how WORK is made:"
    yield "[regions.py](../regions.py)\n"
    yield "Selections of the grid with the embedded family: 4,000 rows (bioinstruct 1,988), K = 50,"
    yield "b_v = 10, the target not fine-tuned. Done again on other days than the grid's cells, so"
    yield "rounding may differ from theirs.\n"
    yield "## V_i from the easiest region to the hardest\n"
    yield "Of the verified regions with T = 3, in the order of the small model's scores. Budget"
    yield "moved: the share of the coreset (keep 0.1) that lies in other regions than without"
    yield "verification.\n"
    yield "| task | seed | regions | easiest | at 1/4 | at 1/2 | at 3/4 | hardest | budget moved |"
    yield "| --- " * 9 + "|"
    for run in runs:
        if run["scores"] == next(iter(SCORES)):
            ratios = run["ratios"]
            texts = [f"{ratios[i * (len(ratios) - 1) // 4]:.2f}" for i in range(5)]
            yield (
                f"| {run['task']} | {run['seed']} | {len(ratios)} | {' | '.join(texts)} "
                f"| {100 * run['moved']:.0f} % |"
            )
    yield "\n## Small model against target\n"
    yield "Spearman's rank correlation of their scores over all rows that are not cut, estimated"
    yield "from the verified rows, with its 95 % interval over rows (what a run's"
    yield "[verdict](../../docs/proxy.md) is made of). Of all 4,000 rows of E2E NLG:"
    yield "[verification.md](verification.md).\n"
    yield "| task | small model tuned | seed | rows | Spearman |\n" + "| --- " * 5 + "|"
    for run in runs:
        low, high = run["interval"]
        yield (
            f"| {run['task']} | {run['scores']} | {run['seed']} | {run['rows']} "
            f"| {run['spearman']:.2f} ({low:.2f} to {high:.2f}) |"
        )


def _place(run: dict[str, Any]) -> tuple[int, int, int]:
    return list(TASKS).index(run["task"]), list(SCORES).index(run["scores"]), run["seed"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, help="work folder of grid.py run")
    parser.add_argument("--write", action="store_true", help=f"write {KNOWN.name}, {REPORT.name}")
    args = parser.parse_args()
    known = json.loads(KNOWN.read_text()) if KNOWN.is_file() else {}
    if args.work:
        known |= collect(args.work)
    text = "\n".join(report(known)) + "\n"
    print(text, end="")
    if args.write:
        KNOWN.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
        REPORT.write_text(text)


if __name__ == "__main__":
    main()
