"""How well scores predicted from other rows (`--score-on`) replace scores of their own.

    python benchmarks/interpolation.py --data DIR [--work DIR] [--write]

Every row of a task is scored once by the embedded small model, fine-tuned as in grid.py (whose
--work can be given: its scored runs are reused). Then a part of the rows is drawn, the other rows'
scores are predicted from these, and compared with their own: Spearman's correlation over the rows
that were not drawn, and the share of the highest tenth of these rows that is found.
"""

import argparse
import tempfile
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from grid import Block, Models
from staff.data.files import open_source
from staff.data.store import TokenStore
from staff.planning.counts import tokenised
from staff.runs.config import SelectConfig
from staff.runs.manifest import read_manifest
from staff.scores.interpolate import interpolate
from staff.selectors.agreement import rank_correlation
from staff.stages.draws import rows_to_score
from staff.types import Floats
from tasks import TASKS, write_task
from written import command_line, machine

RESULTS = Path(__file__).parent / "results" / "interpolation.md"
REAL = [name for name in TASKS if name not in ("e2e_demo", "gsm8k")]
SHARES = (0.1, 0.3, 0.5)
SEEDS = range(5)


def found(store: TokenStore, scores: Floats, share: float, seed: int) -> tuple[float, float]:
    """Rank correlation over the rows that were not drawn, and the share of their top tenth."""
    drawn = rows_to_score(store, share, seed=seed)
    told = interpolate(store, drawn, scores[drawn], seed=seed).scores
    others = np.setdiff1d(np.arange(len(store)), drawn)
    right, guessed = scores[others], told[others]
    most = len(others) // 10
    top = np.intersect1d(np.argsort(right)[-most:], np.argsort(guessed)[-most:])
    correlation = rank_correlation(right, guessed)
    return correlation.value if correlation else float("nan"), len(top) / most


def lines_of(task: str, *, data: Path | None, work: Path) -> list[str]:
    """The table's lines of one task."""
    rows = write_task(task, data, work / task / "data")
    block = Block(task, 0, data=rows, work=work, store=work / "store", models=Models())
    run = block.select("staff")
    config = SelectConfig(**read_manifest(run)["config"])
    scores = pq.read_table(run / "selection.parquet")["score_small"].to_numpy()
    lines = []
    with tokenised(config, open_source(str(config.data)), (str(config.small),), None) as prepared:
        store = prepared.stores[0]
        if len(store) != len(scores):
            raise SystemExit(f"{run} has scores of {len(scores)} rows, {task} has {len(store)}")
        for share in SHARES:
            ranks, tops = zip(*(found(store, scores, share, seed) for seed in SEEDS), strict=True)
            lines.append(
                f"| {task} | {len(store):,} | {share:.0%} | {np.mean(ranks):.2f} "
                f"({min(ranks):.2f} to {max(ranks):.2f}) | {np.mean(tops):.0%} |"
            )
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the data sets: see tasks.py")
    parser.add_argument("--work", type=Path, help="scratch folder; default: a temporary one")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=REAL)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    args = parser.parse_args()
    command = command_line(__file__, data=args.data, work=args.work)
    with tempfile.TemporaryDirectory() as scratch:
        work = (args.work or Path(scratch)).resolve()
        lines = [line for task in args.tasks for line in lines_of(task, data=args.data, work=work)]
    text = f"""# Scores predicted from other rows

`{command}`; {date.today()}, {machine()}. Embedded small model, fine-tuned for 3 epochs.

On the rows that were not scored: Spearman's correlation of the predictions with the rows' own
scores (mean and range of {len(SEEDS)} draws), and the share of the tenth with the highest
scores that is in the tenth with the highest predictions (10 % by chance).

| task | rows | scored | rank correlation | of the highest tenth |
| --- | --- | --- | --- | --- |
""" + "".join(f"{line}\n" for line in lines)
    if args.write:
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()
