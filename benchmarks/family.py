"""Is the embedded family worth its bytes, and at which learning rate? (run with --write)

With --target, the first of these alone, for another target of that family.

1. The rate is chosen on the demo's validation rows (the test rows choose nothing): the target is
   fine-tuned at each rate on a random tenth of the training rows, as many as the demo's coreset.
2. At the demo's rate, fine-tuning on all rows must clearly beat no fine-tuning on the validation
   rows, or a coreset could not show anything.
3. At that rate, the pretrained target's test loss must be at least 10 % below that of the same
   architecture fine-tuned identically from a random start.

The held-out losses of the pretraining are in the family's README.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from staff import pipeline, single
from staff.demo import COLUMNS, EPOCHS, KEEP, LEARNING_RATE, TARGET, TASK
from staff.models.device import choose_dtype
from staff.runs.config import EvaluateConfig, FinetuneConfig, SelectConfig
from written import command_line, machine

RESULTS = Path(__file__).parent / "results"
RATES = (1e-3, 3e-3, 6e-3, 1e-2, 2e-2)


def tune(model: Path, data: Path, out: Path, rate: float) -> Path:
    settings = {"learning_rate": rate, "epochs": EPOCHS, **COLUMNS}
    single.finetune(FinetuneConfig(data=str(data), model=str(model), out=str(out), **settings))
    return out


def loss(model: Path, adapter: Path | None, split: str) -> tuple[float, str]:
    """Mean loss in nats a token, and as a table cell with its interval."""
    settings = {"adapter": None if adapter is None else str(adapter), **COLUMNS}
    data = str(TASK / f"{split}.jsonl")
    config = EvaluateConfig(data=data, model=str(model), metrics=("loss",), **settings)
    found = single.evaluate(config)["loss"]
    low, high = found["interval"]
    return found["value"], f"{found['value']:.3f} ({low:.3f} to {high:.3f})"


def random_tenth(out: Path) -> Path:
    settings = {"data": str(TASK / "train.jsonl"), "method": "random", "keep": float(KEEP)}
    pipeline.select(SelectConfig(out=str(out), **settings, **COLUMNS))
    return out / f"coreset-{KEEP}.jsonl"


def random_start(out: Path) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(TARGET))
    model.to(torch.bfloat16).save_pretrained(out)
    AutoTokenizer.from_pretrained(TARGET).save_pretrained(out)
    return out


def say(line: str) -> str:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
    return line


def try_rates(
    target: Path, rates: Iterable[float], scratch: Path
) -> tuple[str, dict[float, tuple[float, str]]]:
    """The untuned target's line of the table, and its loss on a random tenth at each rate."""
    tenth = random_tenth(scratch / "tenth")
    untuned = say(f"| untuned | {loss(target, None, 'val')[1]} |")
    found = {}
    for rate in sorted(set(rates)):
        adapter = tune(target, tenth, scratch / f"{rate:g}", rate)
        found[rate] = loss(target, adapter, "val")
        say(f"| {rate:g} | {found[rate][1]} |")
    return untuned, found


def head_of(
    title: str,
    untuned: str,
    found: Mapping[float, tuple[float, str]],
    *,
    target: Path | None = None,
) -> list[str]:
    """How the page begins: what was run, and the rates."""
    dtype = str(choose_dtype("auto", torch.device("cpu"))).removeprefix("torch.")
    return [
        f"# {title}",
        "",
        f"`{command_line(__file__, target=target)}`; {machine()}, {dtype}.",
        f"LoRA, {EPOCHS} epochs, seed 0; loss in nats per token with its 95 % interval over",
        "items.",
        "",
        "Fine-tuned on a random tenth (400 rows):",
        "",
        "| learning rate | validation loss (300 rows) |",
        "| --- | --- |",
        untuned,
        *(f"| {rate:g} | {cell} |" for rate, (_, cell) in found.items()),
        "",
    ]


def another(target: Path, rates: Iterable[float], scratch: Path) -> list[str]:
    """The page of another target, pretrained by tools/pretrain_family.py."""
    untuned, found = try_rates(target, rates, scratch)
    facts = json.loads((target / "pretraining.json").read_text())
    best = min(found, key=lambda rate: found[rate][0])
    return [
        *head_of(f"The {target.name} target on the demo's task", untuned, found, target=target),
        f"The lowest is at {best:g}.",
        "",
        f"The target has {facts['parameters']:,} parameters and was pretrained on "
        f"{facts['tokens']:,} tokens",
        f"(`python tools/pretrain_family.py --size {target.name} --tokens "
        f"{facts['planned_tokens']}`, {facts['compute']},",
        f"{facts['seconds']:,} seconds): {facts['held_out_loss']:.4f} nats a token on "
        f"{facts['held_out_tokens']:,} held-out tokens.",
        "",
    ]


def embedded(rates: Iterable[float], scratch: Path) -> list[str]:
    """The page of the embedded family."""
    everything = TASK / "train.jsonl"
    untuned, found = try_rates(TARGET, [*rates, LEARNING_RATE], scratch)
    best = min(found, key=lambda rate: found[rate][0])
    say(f"best: {best:g}; the demo's: {LEARNING_RATE:g}")
    adapter = tune(TARGET, everything, scratch / "everything", LEARNING_RATE)
    whole = say(f"| all rows | {loss(TARGET, adapter, 'val')[1]} |")
    pretrained, pretrained_cell = loss(TARGET, adapter, "test")
    start = random_start(scratch / "random")
    adapter = tune(start, everything, scratch / "from-random", LEARNING_RATE)
    random, random_cell = loss(start, adapter, "test")
    return [
        *head_of("The embedded target on the demo's task", untuned, found),
        f"The lowest is at {best:g}; the demo uses {LEARNING_RATE:g}. There:",
        "",
        "| fine-tuned on | validation loss (300 rows) |",
        "| --- | --- |",
        untuned.replace("untuned", "nothing"),
        f"| the tenth | {found[LEARNING_RATE][1]} |",
        whole,
        "",
        "| start, fine-tuned on all rows | test loss (400 rows) |",
        "| --- | --- |",
        f"| pretrained | {pretrained_cell} |",
        f"| random | {random_cell} |",
        "",
        f"The pretrained start is {1 - pretrained / random:.1%} lower (goal: at least 10 %).",
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--target", type=Path, help="another target: its folder")
    parser.add_argument("--write", action="store_true", help="write the page in results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if args.target is None:
            name, lines = "family.md", embedded(args.rates, scratch)
        else:
            name, lines = f"family-{args.target.name}.md", another(args.target, args.rates, scratch)
    text = "\n".join(lines)
    sys.stdout.write(text)
    if args.write:
        (RESULTS / name).write_text(text)


if __name__ == "__main__":
    main()
