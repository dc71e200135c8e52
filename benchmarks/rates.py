"""Methods against random on one task, at several learning rates.

    python benchmarks/grid.py --store benchmarks/results/rates/RATE run --data DIR \\
        --tasks e2e_nlg --rows 6000 --learning-rate RATE --keep 0.05 0.1 --no-full --no-generate \\
        --variants random ccs staff within-random grand el2n
    python benchmarks/rates.py --write

The first, once a rate, does the cells with both models at that rate; the second reads them. What
saves a part of the cost was run at 0.0002 and keep 0.1, with the variants of WAYS; EL2N was run at
0.0002 alone.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from grid_report import Found, load, signed, spelt

STORE = Path(__file__).parent / "results" / "rates"
RESULTS = STORE.with_suffix(".md")
TASK = "e2e_nlg"
VARIANTS = ("random", "ccs", "staff", "within-random", "grand", "el2n")
KEEPS = ("0.05", "0.1")
BASE = "within-random"
WAYS = {
    BASE: "T = 3",
    "random-epochs-1": "T = 1",
    "random-epochs-0": "T = 0",
    "random-tune-0.3": "T = 3 on 30 % of the rows",
    "plain-random": "T = 3, not verified",
    "random-target-scores": "the target's own, not fine-tuned",
}


def lines(stores: list[Path]) -> Iterator[str]:
    """The tables as Markdown, lowest rate first."""
    yield "# Against random, by learning rate\n"
    yield "`python benchmarks/rates.py --write`; cells: see [rates.py](../rates.py)\n"
    yield "E2E NLG, 6,000 rows, the embedded family, three epochs of LoRA at the rate named for"
    yield "both models; test loss over 400 rows, in nats a token, and what it is over random's, %;"
    yield "95 % intervals over seeds and items, of 1 seed over items alone. The target's best rate"
    yield "is 0.01 ([family.md](family.md))."
    for store in stores:
        found = load(store)[TASK]
        yield f"\n## {store.name}\n"
        yield "| method | keep | rows | seeds | loss | over random's, % |\n" + "| --- " * 6 + "|"
        yield from _rows(found)
        if any(found.seeds("loss", variant, "0.1") for variant in list(WAYS)[1:]):
            yield "\nOther scores, keep 0.1, rows drawn at random within regions:\n"
            yield "| scores | seeds | loss | over T = 3's, % | over random's, % |"
            yield "| --- " * 5 + "|"
            yield from _ways(found)


def _ways(found: Found) -> Iterator[str]:
    for variant, name in WAYS.items():
        if not (seeds := found.seeds("loss", variant, "0.1")):
            continue
        loss = spelt(found.value("loss", variant, "0.1"), 3)
        gaps = [
            "" if variant == base else signed(found.percent(variant, "0.1", minus=base), 1)
            for base in (BASE, "random")
        ]
        yield f"| {name} | {len(seeds)} | {loss} | {gaps[0]} | {gaps[1]} |"


def _rows(found: Found) -> Iterator[str]:
    for keep in KEEPS:
        for method in VARIANTS:
            if not (seeds := found.seeds("loss", method, keep)):
                continue
            loss = spelt(found.value("loss", method, keep), 3)
            rows = found.cells[method, keep, min(seeds)]["tuning"]["rows"]
            gap = found.percent(method, keep, minus="random")
            yield (f"| {method} | {keep} | {rows} | {len(seeds)} | {loss} | {signed(gap, 1)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    args = parser.parse_args()
    stores = sorted(args.store.iterdir(), key=lambda path: float(path.name))
    text = "\n".join(lines(stores)) + "\n"
    print(text, end="")
    if args.write:
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()
