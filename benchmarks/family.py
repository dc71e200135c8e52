"""Is the embedded family worth its bytes? (`python benchmarks/family.py --write`)

After identical fine-tuning on the demo's 4,000 rows, the pretrained target's test loss
must be at least 10 % below that of the same architecture at random initialisation.
Pretraining's held-out losses are in the family's own README.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from staff import single
from staff.demo import COLUMNS, EPOCHS, LEARNING_RATE, TARGET, TASK
from staff.runs.config import EvaluateConfig, FinetuneConfig

RESULT = Path(__file__).parent / "results" / "family.md"


def tuned_loss(model: Path, scratch: Path) -> float:
    adapter = scratch / f"{model.name}-adapter"
    settings = {"model": str(model), **COLUMNS}
    single.finetune(
        FinetuneConfig(
            data=str(TASK / "train.jsonl"),
            out=str(adapter),
            learning_rate=LEARNING_RATE,
            epochs=EPOCHS,
            **settings,
        )
    )
    return single.evaluate(
        EvaluateConfig(
            data=str(TASK / "test.jsonl"), adapter=str(adapter), metrics=("loss",), **settings
        )
    )["loss"]["value"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        random = Path(scratch) / "random"
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(TARGET))
        model.to(torch.bfloat16).save_pretrained(random)
        AutoTokenizer.from_pretrained(TARGET).save_pretrained(random)
        losses = {name: tuned_loss(path, Path(scratch)) for name, path in
                  (("pretrained", TARGET), ("random", random))}  # fmt: skip
    gap = 1 - losses["pretrained"] / losses["random"]
    text = "\n".join(
        [
            "# The embedded target against a random start",
            "",
            f"`python benchmarks/{Path(__file__).name} --write`: both tuned on the demo's 4,000",
            f"rows (LoRA, {EPOCHS} epochs, learning rate {LEARNING_RATE:g}, seed 0); loss in nats",
            "a token on its 400 test rows.",
            "",
            "| start | test loss |",
            "| --- | --- |",
            *(f"| {name} | {loss:.3f} |" for name, loss in losses.items()),
            "",
            f"The pretrained one is {gap:.1%} lower (asked: at least 10 %).",
            "",
        ]
    )
    sys.stdout.write(text)
    if args.write:
        RESULT.write_text(text)


if __name__ == "__main__":
    main()
