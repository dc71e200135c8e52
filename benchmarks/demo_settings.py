"""Choose the demo's learning rate on validation data (run with --write).

The target is tuned on all 4,000 training rows at each rate and measured on the 300
validation rows; the test rows are never touched. The untuned target is the yardstick:
tuning on everything must clearly beat it, or a coreset would have nothing to show.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from staff import single
from staff.demo import COLUMNS, EPOCHS, TARGET, TASK
from staff.runs.config import EvaluateConfig, FinetuneConfig

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
RESULT = Path(__file__).parent / "results" / "demo_settings.md"


def validation_loss(adapter: Path | None) -> dict:
    return single.evaluate(
        EvaluateConfig(
            data=str(TASK / "val.jsonl"),
            model=str(TARGET),
            adapter=None if adapter is None else str(adapter),
            metrics=("loss",),
            **COLUMNS,
        )
    )["loss"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    args = parser.parse_args()
    lines = [
        "# The demo's learning rate",
        "",
        f"`python benchmarks/{Path(__file__).name} --write`: the embedded target tuned on all",
        f"4,000 training rows, {EPOCHS} epochs, validation loss in nats a token (300 rows).",
        "",
        "| learning rate | validation loss | 95 % interval | seconds |",
        "| --- | --- | --- | --- |",
    ]
    loss = validation_loss(None)
    low, high = loss["interval"]
    lines.append(f"| untuned | {loss['value']:.3f} | {low:.3f} to {high:.3f} | |")
    for rate in RATES:
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "adapter"
            cost = single.finetune(
                FinetuneConfig(
                    data=str(TASK / "train.jsonl"),
                    model=str(TARGET),
                    out=str(out),
                    learning_rate=rate,
                    epochs=EPOCHS,
                    **COLUMNS,
                )
            )
            loss = validation_loss(out)
        low, high = loss["interval"]
        lines.append(
            f"| {rate:g} | {loss['value']:.3f} | {low:.3f} to {high:.3f} | {cost['seconds']:.0f} |"
        )
        sys.stdout.write(lines[-1] + "\n")
        sys.stdout.flush()
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if args.write:
        RESULT.write_text(text)


if __name__ == "__main__":
    main()
