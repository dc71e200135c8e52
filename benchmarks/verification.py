"""Rows that `--verify-per-region auto` uses, compared with a fixed b_v at equally stable budgets.

Before that, how well the small model's scores agree with the target's, fine-tuned and not.

    python benchmarks/verification.py [--seeds 40] [--write]
    python benchmarks/verification.py --score    # makes the stored scores again, a few minutes

NumPy only: both models' scores of every row are known beforehand, and so are the budgets if every
row were verified. A result is stable if it is near these: the distance is the share of the budget
in other regions (total variation), at keep 0.1, mean over seeds. For the final distance of auto,
the number of rows that a fixed b_v needs for the same distance is read off its curve (linear
between neighbours, both in logarithms).

Scores: drawn as the cases below say, and the demo's (E2E NLG, embedded family), for all 4,000 rows.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from staff.rng import priorities
from staff.selectors import allocate, choose_rows, stratify, weigh
from staff.selectors.agreement import rank_correlation
from staff.selectors.rounds import CAP, budget_error, verify_in_rounds
from staff.types import Regions, Verification
from written import machine

RESULTS = Path(__file__).parent / "results" / "verification.md"
STORED = Path(__file__).parent / "data" / "e2e_nlg_scores.parquet"
ROWS, KEEP, CUT = 4000, 0.1, 0.1
FIXED = (2, 3, 4, 5, 7, 10, 14, 20, 28, 40, 56, 80, 112, 160)
TOLERANCES = (0.05, 0.03, 0.02)


@dataclass(frozen=True, slots=True)
class Case:
    """Scores [n]: regions are made of `small`, ratios are `target` over `against`."""

    small: np.ndarray
    target: np.ndarray
    against: np.ndarray


@dataclass(frozen=True, slots=True)
class Outcome:
    """Means over seeds: rows verified, distance to the exact budgets, the distance foretold."""

    rows: float
    distance: float
    foretold: float


def cases() -> dict[str, Case]:
    random = np.random.default_rng(0)
    small = random.lognormal(sigma=0.5, size=ROWS)
    noise = random.standard_normal(ROWS)
    place = np.argsort(np.argsort(small)) / ROWS

    def made(target: np.ndarray) -> Case:
        return Case(small, target, small)

    table = _stored()
    tuned, target, untuned = (table[k] for k in ("small", "target", "small_untuned"))
    return {
        "ratios alike, noise 0.3": made(small * np.exp(0.3 * noise)),
        "ratios alike, noise 0.1 to 1": made(small * np.exp((0.1 + 0.9 * place) * noise)),
        "ratios alike, noise 1 to 0.1": made(small * np.exp((1 - 0.9 * place) * noise)),
        "ratios falling, noise 0.3": made(np.exp(0.3 * noise)),
        "ratios alike, heavy tails": made(small * np.exp(0.3 * random.standard_t(3, ROWS))),
        "E2E NLG, against tuned": Case(tuned, target, tuned),
        "E2E NLG, against untuned": Case(tuned, target, untuned),
    }


def _stored() -> dict[str, np.ndarray]:
    table = pq.read_table(STORED)
    return {name: table[name].to_numpy() for name in table.column_names}


def distance(pool: Regions, found: Verification, exact: Verification) -> float:
    """Share of the budget at `KEEP` that lies in other regions than with exact ratios."""
    total = int(KEEP * len(pool.of_row))
    one, other = (allocate(pool, v, total=total).count / total for v in (found, exact))
    return float(np.abs(one - other).sum() / 2)


def fixed(case: Case, pool: Regions, b_v: int, seed: int, keys: np.ndarray) -> Verification:
    rows = choose_rows(pool, per_region=b_v, seed=seed, keys=keys)
    return weigh(case.against[rows], case.target[rows], rows, pool)


def auto(case: Case, pool: Regions, tolerance: float, seed: int, keys: np.ndarray) -> Verification:
    return verify_in_rounds(
        pool,
        lambda rows: (case.against[rows], case.target[rows]),
        tolerance=tolerance,
        cap=CAP,
        seed=seed,
        keys=keys,
    )


def measure(case: Case, pool: Regions, verify: Callable[..., Verification], seeds: int) -> Outcome:
    everything = np.flatnonzero(pool.of_row >= 0)
    exact = weigh(case.against[everything], case.target[everything], everything, pool)
    rows, apart, foretold = [], [], []
    for seed in range(seeds):
        keys = priorities(np.arange(ROWS, dtype=np.uint64), seed, "benchmark")
        found = verify(case, pool, seed=seed, keys=keys)
        rows.append(len(found.rows))
        apart.append(distance(pool, found, exact))
        foretold.append(budget_error(found, pool.sizes))
    return Outcome(float(np.mean(rows)), float(np.mean(apart)), float(np.mean(foretold)))


def equal_rows(curve: list[Outcome], wanted: float) -> float | None:
    """Rows at which a curve of fixed b_v first comes as near as `wanted`; None if it does not."""
    for one, other in zip([None, *curve], curve, strict=False):
        if other.distance > wanted:
            continue
        if one is None:
            return None  # nearer than that from the start
        share = np.log(wanted / one.distance) / np.log(other.distance / one.distance)
        return float(np.exp(np.log(one.rows) + share * np.log(other.rows / one.rows)))
    return None


def score() -> None:
    """Score every row of the demo's data on all three models and store that."""
    from staff import demo, pipeline, single
    from staff.runs.config import ScoreConfig
    from staff.runs.selection_file import read_selection
    from staff.scores.shards import read_scores

    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        config = demo.selection(out / "run").model_copy(update={"dtype": "float32"})
        pipeline.select(config)
        table = read_selection(out / "run" / "selection.parquet")
        columns = {"row": table["row"], "small": table["score_small"]}
        for name, model in (("small_untuned", demo.SMALL), ("target", demo.TARGET)):
            folder = out / name
            settings = {**demo.COLUMNS, "dtype": "float32"}
            single.score(
                ScoreConfig(data=config.data, model=str(model), out=str(folder), **settings)
            )
            columns[name] = read_scores(folder / "scores" / "small").columns["effort"]
    STORED.parent.mkdir(exist_ok=True)
    # Six digits are more than any two orders of summation agree on.
    rounded = {k: v if k == "row" else v.astype(np.float32) for k, v in columns.items()}
    pq.write_table(pa.table(rounded), STORED, compression="zstd")


def agreement(scores: dict[str, np.ndarray]) -> Iterator[str]:
    """Spearman's correlations of the small model's scores with the target's, as Markdown.

    scores: by column of the stored file, each [n]. The cut is of the tuned model's highest scores.
    """
    small, target = scores["small"], scores["target"]
    left = stratify(small, regions=1, cut=CUT).of_row >= 0
    yield "## Small model against target"
    yield ""
    yield (
        f"Spearman's rank correlation of the scores of all {len(small):,} rows of E2E NLG "
        "(embedded family, target not fine-tuned), with Fisher's 95 % interval; other tasks, from "
        "the verified rows alone: [regions.md](regions.md)."
    )
    yield ""
    yield f"| small model | all rows | without the {100 * CUT:g} % that the cut takes |"
    yield "| --- | --- | --- |"
    for name, column in (("not fine-tuned (T = 0)", "small_untuned"), ("T = 3", "small")):
        texts = []
        for rows in (np.ones(len(small), bool), left):
            found = rank_correlation(scores[column][rows], target[rows])
            assert found is not None
            ends = "" if found.interval is None else " ({:.2f} to {:.2f})".format(*found.interval)
            texts.append(f"{found.value:.2f}{ends}")
        yield f"| {name} | {' | '.join(texts)} |"
    yield ""


def report(seeds: int) -> str:
    lines = [
        "# Rows verified by `--verify-per-region auto` and by a fixed b_v",
        "",
        f"`python benchmarks/verification.py --seeds {seeds} --write`, {date.today()}, "
        f"{machine(also=('numpy',))}",
        "",
        *agreement(_stored()),
        "## Rows of auto and of a fixed b_v",
        "",
        "Distance: share of the budget (keep 0.1) in other regions than if every row were "
        f"verified, mean over {seeds} seeds; K = 50, cap {CAP:,}. Predicted: auto's own estimate "
        "of that distance, for shares before any region is taken whole. Equal b_v: the rows that "
        "a fixed b_v needs for the same distance, from its curve; a ratio below 1 is in favour of "
        "auto.",
        "",
        "| scores | tolerance | auto: rows | distance | predicted | equal b_v | auto / fixed |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    curves = []
    for name, case in cases().items():
        pool = stratify(case.small, regions=50, cut=CUT)
        curve = [measure(case, pool, partial(fixed, b_v=b), seeds) for b in FIXED]
        for tolerance in TOLERANCES:
            found = measure(case, pool, partial(auto, tolerance=tolerance), seeds)
            rows = equal_rows(curve, found.distance)
            against = "not reached" if rows is None else f"{rows:,.0f}"
            ratio = "" if rows is None else f"{found.rows / rows:.2f}"
            lines.append(
                f"| {name} | {tolerance:g} | {found.rows:,.0f} | {found.distance:.3f} | "
                f"{found.foretold:.3f} | {against} | {ratio} |"
            )
        shown = [(b, one) for b, one in zip(FIXED, curve, strict=True) if b in (5, 10, 20, 40, 80)]
        cells = " | ".join(f"{one.rows:,.0f}: {one.distance:.3f}" for _, one in shown)
        curves.append(f"| {name} | {cells} |")
    lines += [
        "",
        "Fixed b_v, as rows: distance. Regions of b_v rows or fewer are not verified, so a large "
        "b_v leaves the thin regions at both ends with equal shares.",
        "",
        "| scores | b_v 5 | 10 | 20 | 40 | 80 |",
        "| --- | --- | --- | --- | --- | --- |",
        *curves,
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--score", action="store_true", help=f"make {STORED.name} again")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    args = parser.parse_args()
    if args.score:
        score()
        return
    text = report(args.seeds)
    print(text)
    if args.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
