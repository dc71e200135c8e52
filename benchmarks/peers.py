"""The same per-row gradient norms by `staff`, opacus, bergson and torch.func, in one run on a CPU.

Each computes, for every row, the norm of the gradient of the last value projection's weight: same
rows, batches, dtype, threads and attention (PyTorch's SDPA), without a padding mask, each cut at
that layer if its interface allows it (docs/benchmarks.md says how). Repeated in turn; the figures
are medians. The norms are compared with the oracle: one row at a time, the model's own loss and
autograd, in float32 on the same weights; the table has the largest relative difference.

  random 58M, random rows   a Llama with a 32k vocabulary; rows as in benchmarks/scoring.py, 70-310
                            tokens, 10-60 of them response
  random 58M, E2E NLG       the same model; the lengths of real rows, 42 % of their tokens response
  embedded 4M, E2E NLG      the target of the embedded family and its own rows

In float32, and on real rows in bfloat16; the random model only in dtypes that the CPU computes.

opacus and bergson live in an environment of their own:

  make benchmark-peers                     # installs it, and writes benchmarks/results/peers.md
  python benchmarks/peers.py               # what is not installed is left out, and named
  python benchmarks/peers.py --rows 8 --layers 2 --hidden 64 --repeats 1   # a quick look
"""

import argparse
import copy
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ways
from scoring import make_model, make_rows, released_way, seconds, threads
from staff.data.batches import Batch, collate
from staff.data.files import open_source
from staff.demo import COLUMNS, TARGET, TASK
from staff.models.device import choose_dtype
from staff.models.load import load_model
from staff.runs.config import SelectConfig
from staff.scores.oracle import oracle_effort
from staff.stages import reading
from staff.stages.facts import tokenisers_of
from staff.types import Floats, TokenisedExample
from written import command_line, machine

RESULTS = Path(__file__).parent / "results" / "peers.md"
OURS = "staff"
WANTED = 2  # times as fast as each peer
PEERS: dict[str, Callable[[Any, list[Batch]], ways.Run]] = {
    OURS: ways.staff_way,
    "opacus (ghost norms)": ways.opacus_way,
    "bergson": ways.bergson_way,
    "bergson (its own set-up)": ways.bergson_own_way,
    "torch.func": ways.torch_func_way,
    "torch.func (last block)": ways.torch_func_last_block_way,
    "one row at a time": ways.one_row_way,
}
RELEASED = "the released way"  # two backward passes for a fresh LoRA: no norms of this layer


@dataclass(frozen=True, slots=True)
class Setting:
    """A model, rows for it and a dtype. make: the model, in float32."""

    name: str
    make: Callable[[], Any]
    rows: list[TokenisedExample]
    dtype: torch.dtype


@dataclass(slots=True)
class Measured:
    """seconds: of all rows once, a repetition each; apart: from the oracle, relative, the largest.

    why: it was not measured.
    """

    seconds: list[float] = field(default_factory=list)
    apart: float | None = None
    why: str | None = None


def real_rows(n: int) -> list[TokenisedExample]:
    """The first rows of the embedded E2E NLG sample, as the embedded target reads them."""
    config = SelectConfig(
        data=str(TASK / "train.jsonl"), small=str(TARGET), target=str(TARGET), keep=0.1, out="-",
        **COLUMNS,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        source = open_source(str(config.data))
        tokenisers = tokenisers_of((str(TARGET), str(TARGET)), max_length=None)
        prepared = reading.read(config, source, tokenisers, folder=Path(scratch), progress=None)
        return list(prepared.stores[-1].get(np.arange(n)))


def in_batches(rows: list[TokenisedExample], *, size: int) -> list[Batch]:
    """Batches of rows of like length, the longest first."""
    rows = sorted(rows, key=lambda row: -len(row.input_ids))
    return [collate(rows[i : i + size]) for i in range(0, len(rows), size)]


def measure(
    setting: Setting, *, batch_rows: int, repeats: int, say: Callable[[str], None]
) -> dict[str, Measured]:
    """Every way in turn, `repeats` times; the first batch warms each up."""
    batches = in_batches(setting.rows, size=batch_rows)
    model = setting.make().to(setting.dtype)
    exact = copy.deepcopy(model).float()
    truth = np.array([oracle_effort(exact, row) for row in unpadded(batches)])
    found = {name: Measured() for name in (*PEERS, RELEASED)}
    runs = {}
    for name, way in {**PEERS, RELEASED: released}.items():
        try:
            way(copy.deepcopy(model), batches[:1])()
            runs[name] = way(copy.deepcopy(model), batches)
        except ImportError as error:
            found[name].why = f"{error.name} is not installed"
        except Exception as error:  # whatever a peer cannot do is a result
            found[name].why = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    for repeat in range(repeats):
        for name, run in runs.items():
            norms: list[Floats] = []
            found[name].seconds.append(seconds(lambda run=run, norms=norms: norms.append(run())))
            if name != RELEASED:
                found[name].apart = float(np.abs(norms[0] / truth - 1).max())
        say(f"{setting.name}: {repeat + 1} of {repeats}")
    return found


def unpadded(batches: list[Batch]) -> list[TokenisedExample]:
    """The rows of some batches, in their order."""
    rows = []
    for batch in batches:
        for ids, labels, mask in zip(
            batch.input_ids, batch.labels, batch.attention_mask, strict=True
        ):
            size = int(mask.sum())
            rows.append(TokenisedExample("", ids[:size].numpy(), labels[:size].numpy()))
    return rows


def released(model: Any, batches: list[Batch]) -> Callable[[], Any]:
    return released_way(model, unpadded(batches))


def table(found: dict[str, Measured]) -> list[str]:
    """One line a way; ratios are of medians, with the lowest and highest of the repetitions."""
    lines = [
        "| | seconds | times as slow as staff | norms apart from the oracle |",
        "| --- | --- | --- | --- |",
    ]
    ours = found[OURS].seconds
    for name, way in found.items():
        if way.why:
            lines.append(f"| {name} | not measured: {way.why} | | |")
            continue
        ratios = [theirs / mine for theirs, mine in zip(way.seconds, ours, strict=True)]
        middle = statistics.median(way.seconds) / statistics.median(ours)
        against = "" if name == OURS else f"{middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        apart = "of another φ" if way.apart is None else f"{way.apart:.0e}"
        lines.append(f"| {name} | {statistics.median(way.seconds):.2f} | {against} | {apart} |")
    return lines


def verdict(found: dict[str, Measured]) -> str:
    """Whether `staff` is twice as fast as each peer; the ways of one row at a time are none."""
    ours = statistics.median(found[OURS].seconds)
    ratios = {
        name: statistics.median(way.seconds) / ours
        for name, way in found.items()
        if way.seconds and name.startswith(("opacus", "bergson", "torch.func"))
    }
    short = [f"{name} {ratio:.2f}" for name, ratio in ratios.items() if ratio < WANTED]
    reached = f"not reached: {', '.join(short)}" if short else "reached"
    return f"Goal: at least {WANTED} times as fast as opacus, bergson and torch.func: {reached}."


def settings(args: argparse.Namespace) -> list[Setting]:
    """What is measured: float32, and bfloat16 where this CPU computes it or the model is small."""
    shape = (args.layers, args.hidden, args.vocabulary)
    computes = choose_dtype("auto", torch.device("cpu")) == torch.bfloat16
    random = partial(make_model, *shape)
    size = f"random {sum(p.numel() for p in random().parameters()) / 1e6:.0f}M"
    embedded = partial(load_model, str(TARGET), dtype="float32", device="cpu")
    texts, long = real_rows(args.rows), make_rows(args.rows, args.vocabulary)
    whole, half = torch.float32, torch.bfloat16
    found = [
        Setting(f"{size}, random rows, float32", random, long, whole),
        Setting(f"{size}, E2E NLG, float32", random, texts, whole),
        *([Setting(f"{size}, E2E NLG, bfloat16", random, texts, half)] if computes else []),
        Setting("embedded 4M, E2E NLG, float32", embedded, texts, whole),
        Setting("embedded 4M, E2E NLG, bfloat16", embedded, texts, half),
    ]
    return [one for one in found if args.only in one.name]


def peers_versions() -> str:
    parts = []
    for package in ("opacus", "bergson"):
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            parts.append(f"{package} not installed")
    return ", ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--batch-rows", type=int, default=8)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="settings whose name has this in it")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/peers.md")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # the peers' and PyTorch's about each other

    lines = [
        f"{args.rows} rows in batches of {args.batch_rows} of similar length; medians of "
        f"{args.repeats} repetitions, in turn; in brackets the lowest and highest ratio of a "
        "repetition.",
        f"{machine(threads())}, {peers_versions()}",
    ]
    for setting in settings(args):
        tokens = sum(len(row.input_ids) for row in setting.rows)
        response = sum(int((row.labels >= 0).sum()) for row in setting.rows)
        found = measure(
            setting,
            batch_rows=args.batch_rows,
            repeats=args.repeats,
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )
        lines += [
            "",
            f"## {setting.name}",
            "",
            f"{tokens} tokens, {response / tokens:.0%} of them response",
            "",
            *table(found),
            "",
            verdict(found),
        ]
    text = "\n".join([*lines, ""])
    sys.stdout.write(text)
    if args.write:
        command = command_line(__file__)
        intro = __doc__.splitlines()[2:7]
        RESULTS.write_text(
            "\n".join(
                [
                    "# The same norms with other libraries",
                    "",
                    f"`{command}`, {date.today()}",
                    "",
                    *intro,
                    "",
                ]
            )
            + f"\n{text}",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
