"""Is the embedded family worth its bytes, and at which learning rate? (run with --write)

1. The rate is chosen on the demo's validation rows (the test rows choose nothing): the target is
   fine-tuned at each rate on a random tenth of the training rows, as many as the demo's coreset.
2. At the demo's rate, fine-tuning on all rows must clearly beat no fine-tuning on the validation
   rows, or a coreset could not show anything.
3. At that rate, the pretrained target's test loss must be at least 10 % below that of the same
   architecture fine-tuned identically from a random start.

The held-out losses of the pretraining are in the family's README.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from staff import pipeline, single
from staff.demo import COLUMNS, EPOCHS, KEEP, LEARNING_RATE, TARGET, TASK
from staff.models.device import choose_dtype
from staff.runs.config import EvaluateConfig, FinetuneConfig, SelectConfig
from written import command_line, machine

RESULT = Path(__file__).parent / "results" / "family.md"
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    args = parser.parse_args()
    everything = TASK / "train.jsonl"
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        tenth = random_tenth(scratch / "tenth")
        untuned = say(f"| untuned | {loss(TARGET, None, 'val')[1]} |")
        found = {}
        for rate in sorted({*args.rates, LEARNING_RATE}):
            adapter = tune(TARGET, tenth, scratch / f"{rate:g}", rate)
            found[rate] = loss(TARGET, adapter, "val")
            say(f"| {rate:g} | {found[rate][1]} |")
        best = min(found, key=lambda rate: found[rate][0])
        say(f"best: {best:g}; the demo's: {LEARNING_RATE:g}")
        adapter = tune(TARGET, everything, scratch / "everything", LEARNING_RATE)
        whole = say(f"| all rows | {loss(TARGET, adapter, 'val')[1]} |")
        pretrained, pretrained_cell = loss(TARGET, adapter, "test")
        start = random_start(scratch / "random")
        adapter = tune(start, everything, scratch / "from-random", LEARNING_RATE)
        random, random_cell = loss(start, adapter, "test")
    dtype = str(choose_dtype("auto", torch.device("cpu"))).removeprefix("torch.")
    text = "\n".join(
        [
            "# The embedded target on the demo's task",
            "",
            f"`{command_line(__file__)}`; {machine()}, {dtype}.",
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
    )
    sys.stdout.write(text)
    if args.write:
        RESULT.write_text(text)


if __name__ == "__main__":
    main()
