"""Whether torch.compile pays for fine-tuning and scoring on this machine.

The embedded target on rows of E2E NLG, in batches of 8 of similar length as `staff` has them:

  fine-tune   forward and backward pass of LoRA (rank 8, all linear layers)
  score       effort scores and signals (`Scorer`)

Each as `staff` does it (packed end to end on a CPU) and with every block compiled, in scoring all
but the last (`dynamic=True`, so that it need not be compiled anew for every length). The first
batches include the compiling, and all lengths have been met before anything else is timed. Each way
has a process of its own.

  python benchmarks/compiling.py --write    # writes benchmarks/results/compiling.md
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo.config
from peft import get_peft_model

from scoring import seconds, threads
from staff.data.batches import collate
from staff.demo import TARGET
from staff.models.adapters import lora_config
from staff.models.by_row import by_row
from staff.models.load import load_model, load_tokenizer
from staff.scores.effort import Scorer
from staff.training.packed import pack, packing_of
from staff.training.response_loss import response_losses
from staff.types import IGNORE, TokenisedExample
from written import command_line, machine

RESULTS = Path(__file__).parent / "results" / "compiling.md"
SAMPLE = Path(__file__).parents[1] / "src" / "staff" / "assets" / "e2e_nlg" / "train.jsonl"
BATCH = 8
Way = Callable[[int], None]  # computes the batch of this number


def rows_of(count: int) -> list[TokenisedExample]:
    """The first rows of the shipped sample."""
    tokenizer, found = load_tokenizer(str(TARGET)), []
    with SAMPLE.open(encoding="utf-8") as lines:
        for number, line in zip(range(count), lines, strict=False):
            record = json.loads(line)
            prompt = tokenizer(record["mr"] + "\n", add_special_tokens=False).input_ids
            answer = tokenizer(record["ref"], add_special_tokens=False).input_ids
            ids = np.array([*prompt, *answer, tokenizer.eos_token_id])
            labels = np.where(np.arange(len(ids)) < len(prompt), IGNORE, ids)
            found.append(TokenisedExample(str(number), ids, labels))
    return found


def blocks(model: Any) -> Any:
    """The blocks of a Llama, whatever is wrapped around it."""
    return next(m for m in model.modules() if hasattr(m, "layers") and hasattr(m, "norm")).layers


def tuning(parts: Sequence[Sequence[TokenisedExample]], *, compiled: bool) -> Way:
    model = load_model(str(TARGET), dtype="float32", device="cpu")
    packing = packing_of(model)
    assert packing is not None
    model = get_peft_model(model, lora_config(model)).train()
    if compiled:
        for block in blocks(model):
            block.compile(dynamic=True)

    def run(number: int) -> None:
        with by_row(model.get_base_model()):
            inputs = pack(parts[number])
            losses, _ = response_losses(model, narrow=packing.narrow, **inputs)
            losses.mean().backward()
        model.zero_grad()

    return run


def scoring(parts: Sequence[Sequence[TokenisedExample]], *, compiled: bool) -> Way:
    model = load_model(str(TARGET), dtype="float32", device="cpu")
    scorer = Scorer(model)
    if compiled:
        for block in blocks(model)[:-1]:  # in the last, hooks are needed, which compiled code skips
            block.compile(dynamic=True)
    batches = [collate(part) for part in parts]
    return lambda number: (scorer(batches[number]), None)[1]


WAYS = {
    "fine-tune": partial(tuning, compiled=False),
    "fine-tune, compiled": partial(tuning, compiled=True),
    "score": partial(scoring, compiled=False),
    "score, compiled": partial(scoring, compiled=True),
}


def timed(run: Way, parts: Sequence[Any], repeats: int) -> tuple[float, float, float]:
    """Seconds of the first batch, of the others once, and the median of all after that."""
    first = seconds(lambda: run(0))
    others = seconds(lambda: [run(k) for k in range(1, len(parts))])
    times = [seconds(lambda: [run(k) for k in range(len(parts))]) for _ in range(repeats)]
    return first, others, statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--way", choices=WAYS, help="time this one alone, as JSON")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results")
    args = parser.parse_args()
    warnings.simplefilter("ignore")

    rows = rows_of(args.rows)
    order = np.argsort([len(row.input_ids) for row in rows], kind="stable")
    parts = [[rows[i] for i in order[at : at + BATCH]] for at in range(0, len(rows), BATCH)]
    if args.way:
        torch._dynamo.config.recompile_limit = 64  # above the default of 8, blocks stay uncompiled
        sys.stdout.write(json.dumps(timed(WAYS[args.way](parts), parts, args.repeats)))
        return
    found = {}
    for name in WAYS:  # dynamo keeps few versions of a function: each way has a process of its own
        command = [sys.executable, __file__, "--rows", str(args.rows), "--way", name]
        command += ["--repeats", str(args.repeats)]
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"},  # as the first time
        )  # fmt: skip
        found[name] = json.loads(done.stdout)
    tokens = sum(len(row.input_ids) for row in rows)
    lines = [
        "| | first batch, s | all others once, s | tokens/s after that | times as fast as eager |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, (first, others, taken) in found.items():
        eager = name.removesuffix(", compiled")
        ratio = "" if name == eager else f"{found[eager][2] / taken:.2f}"
        lines.append(f"| {name} | {first:.1f} | {others:.1f} | {tokens / taken:.0f} | {ratio} |")
    setting = (
        f"{args.rows} rows, {tokens} tokens, batches of {BATCH}; embedded target (4M), float32; "
        f"medians of {args.repeats}"
    )
    text = "\n".join([setting, machine(threads()), "", *lines, ""])
    sys.stdout.write(text)
    if args.write:
        RESULTS.write_text(
            f"# Whether torch.compile pays\n\n`{command_line(__file__)}`, {date.today()}\n\n{text}",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
