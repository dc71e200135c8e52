"""Fine-tuning speed against TRL's own SFTTrainer, and the losses of both.

LoRA (rank 8, alpha 16, all linear layers), batches of 8 rows of mixed length, learning rate 1e-3,
cosine; activation checkpointing off, no packing. The models start the same and see the same rows:

  random order    both train on the same batches in TRL's default order, which is random
  by length       both train on the same batches of rows of similar length: `staff`'s own order, and
                  TRL's train_sampling_strategy="group_by_length"
  as they come    each in its own default order: `staff` by length, TRL random

"Real tokens" exclude padding. TRL pads a batch to its longest row; its padding-free collator is
included for comparison, in random order (on the CPU, attention then spans the batch, with a mask).
Every repetition runs all variants one after the other; the figures are medians over repetitions.

  python benchmarks/finetuning.py --data DIR --write   # writes benchmarks/results/finetuning.md
  python benchmarks/finetuning.py --steps 3 --repeats 1 --layers 2 --hidden 64   # a quick look

DIR as for grid.py: dialogsum, E2E NLG and GSM8K, mixed evenly. Without it: the E2E NLG sample that
staff ships, with one to six rows joined into one.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTConfig, SFTTrainer

from scoring import make_model
from staff.data.files import open_source
from staff.data.store import TokenStore
from staff.demo import TARGET
from staff.models.adapters import lora_config
from staff.models.device import choose_dtype
from staff.models.load import load_model, load_tokenizer
from staff.runs.config import FinetuneConfig
from staff.stages.facts import tokenisers_of
from staff.stages.reading import read
from staff.training.finetune import quiet
from staff.training.timing import time_steps
from tasks import write_task
from written import command_line, machine

RESULTS = Path(__file__).parent / "results" / "finetuning.md"
MIXED = ("dialogsum", "e2e_nlg", "gsm8k")
BATCH, RATE = 8, 1e-3
WARM = 2  # steps that are trained and not timed
ORDERS = ("random order", "by length")
SIDES = ("staff", "TRL", "TRL padding-free")


@dataclass(frozen=True)
class Run:
    """Seconds and mean loss of every step [k]."""

    seconds: list[float]
    losses: list[float]


def mixed_rows(data: Path | None, out: Path, rows: int) -> Path:
    """A file of prompt and response, `rows` of them."""
    pairs: list[dict[str, str]] = []
    for name in MIXED if data else ("e2e_demo",):
        count = -(-rows // len(MIXED)) if data else rows
        folder = write_task(name, data, out / name, rows=count)
        lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
        pairs += [json.loads(line) for line in lines]
    if data is None:
        generator = np.random.default_rng(0)
        pairs = [
            {
                side: "\n".join(pairs[(i + k) % len(pairs)][side] for k in range(count))
                for side in ("prompt", "response")
            }
            for i, count in enumerate(generator.integers(1, 7, len(pairs)))
        ]
    path = out / "mixed.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    return path


def tokenised(path: Path, out: Path) -> TokenStore:
    """The rows as staff reads them, at most 512 tokens each."""
    config = FinetuneConfig(data=str(path), model=str(TARGET), out=str(out / "-"))
    readers = tokenisers_of((str(TARGET),), max_length=None)
    return read(config, open_source(str(path)), readers, folder=out, progress=None).stores[0]


def random_llama(out: Path, layers: int, hidden: int) -> Path:
    """A Llama of random weights with the embedded family's vocabulary."""
    make_model(layers, hidden, 4096).save_pretrained(out)
    load_tokenizer(str(TARGET)).save_pretrained(out)
    return out


def batches_of(lengths: Any, order: str, steps: int) -> list[Any]:
    """Rows of each step, int64 [BATCH]."""
    if order == "random order":
        rows = np.random.default_rng(1).permutation(len(lengths))
    else:
        generator = torch.Generator().manual_seed(1)
        rows = np.array(list(LengthGroupedSampler(BATCH, lengths=lengths, generator=generator)))
    return [rows[start : start + BATCH] for start in range(0, steps * BATCH, BATCH)]


class Ordered(SFTTrainer):
    """TRL's trainer on batches of our choice; otherwise its own."""

    batches: Sequence[Any] = ()

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return [int(row) for batch in self.batches for row in batch]


class Clock(TrainerCallback):
    """When every step ended, and its loss."""

    def __init__(self) -> None:
        self.stamps: list[float] = []
        self.losses: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Note one step."""
        if "learning_rate" in logs:
            self.stamps.append(time.monotonic())
            self.losses.append(logs["loss"])


def staff_run(model: str, store: TokenStore, batches: Sequence[Any], dtype: str) -> Run:
    """With the trainer of `staff finetune`."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "adapter"
        seconds = time_steps(
            model, store, batches, batch_size=BATCH, learning_rate=RATE, dtype=dtype,
            device="cpu", adapter=out,
        )  # fmt: skip
        lines = (out / "loss.jsonl").read_text().splitlines()
    return Run(seconds, [json.loads(line)["loss"] for line in lines])


def trl_run(
    model: str, store: TokenStore, batches: Sequence[Any], dtype: str, *, padding_free: bool
) -> Run:
    """With TRL's trainer as a user would set it up for the same training."""
    rows = store.get(range(len(store)))
    data = Dataset.from_dict(
        {"input_ids": [r.input_ids for r in rows], "labels": [r.labels for r in rows]}
    )
    loaded, clock = load_model(model, dtype=dtype, device="cpu"), Clock()
    with tempfile.TemporaryDirectory() as scratch, quiet():
        trainer = Ordered(
            model=loaded,
            args=SFTConfig(
                output_dir=scratch,
                max_steps=len(batches),
                per_device_train_batch_size=BATCH,
                learning_rate=RATE,
                lr_scheduler_type="cosine",
                warmup_steps=0.1,
                seed=0,
                use_cpu=True,
                bf16=dtype == "bfloat16",
                gradient_checkpointing=False,
                padding_free=padding_free,
                max_length=None,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            peft_config=lora_config(loaded),
            train_dataset=data,
            processing_class=load_tokenizer(str(TARGET)),
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.batches = batches
        start = time.monotonic()
        trainer.train()
    return Run(np.diff([start, *clock.stamps]).tolist(), clock.losses)


def one_run(side: str, *what: Any) -> Run:
    """A training by this side."""
    if side == "staff":
        return staff_run(*what)
    return trl_run(*what, padding_free=side == "TRL padding-free")


def measure(model: str, store: TokenStore, dtype: str, steps: int, repeats: int) -> list[str]:
    """The table's lines for one model in one precision."""
    plans = {order: batches_of(store.lengths.tolist(), order, WARM + steps) for order in ORDERS}
    speeds: dict[tuple[str, str], list[float]] = {}
    losses: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeats):
        for order, batches in plans.items():
            tokens = sum(int(store.lengths[batch].sum()) for batch in batches[WARM:])
            for side in SIDES if order == "random order" else SIDES[:2]:
                run = one_run(side, model, store, batches, dtype)
                speeds.setdefault((order, side), []).append(tokens / sum(run.seconds[WARM:]))
                losses[order, side] = run.losses
    speed = {key: statistics.median(values) for key, values in speeds.items()}
    lines, free = [], f"{speed['random order', 'TRL padding-free']:.0f}"
    for order in ORDERS:
        ours, theirs = losses[order, "staff"], losses[order, "TRL"]
        apart = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        lines.append(
            f"| {order} | {speed[order, 'staff']:.0f} | {speed[order, 'TRL']:.0f} | "
            f"{free if order == 'random order' else ''} | "
            f"**{speed[order, 'staff'] / speed[order, 'TRL']:.2f}** | "
            f"{ours[0]:.4f} → {ours[-1]:.4f} | {theirs[0]:.4f} → {theirs[-1]:.4f} | {apart:.1e} |"
        )
    mine, default = speed["by length", "staff"], speed["random order", "TRL"]
    lines.append(
        f"| as they come | {mine:.0f} | {default:.0f} | {free} | **{mine / default:.2f}** | | | |"
    )
    return lines


def padding(store: TokenStore, order: str, steps: int) -> float:
    """Share of a padded batch that is padding, over the timed batches."""
    batches = [store.lengths[b] for b in batches_of(store.lengths.tolist(), order, WARM + steps)]
    padded = sum(len(batch) * int(batch.max()) for batch in batches[WARM:])
    return 1 - sum(int(batch.sum()) for batch in batches[WARM:]) / padded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--steps", type=int, default=6, help="timed steps a run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, default=8, help="of the random Llama")
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--write", action="store_true", help="write benchmarks/results")
    args = parser.parse_args()
    bf16 = choose_dtype("auto", torch.device("cpu")) == torch.bfloat16
    start, lines = time.monotonic(), []
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        store = tokenised(mixed_rows(args.data, out, args.rows), out)
        models = {
            "embedded target": str(TARGET),
            "random Llama": str(random_llama(out / "llama", args.layers, args.hidden)),
        }
        for name, model in models.items():
            count = sum(p.numel() for p in load_model(model).parameters())
            for dtype in args.dtypes:
                if dtype == "bfloat16" and not bf16:
                    lines += [f"\n{name}, bfloat16: not measured, this CPU does not compute it"]
                    continue
                lines += [
                    f"\n{name} ({count / 1e6:.0f}M parameters), {dtype}\n",
                    "| | staff | TRL | TRL padding-free | staff / TRL | loss: staff | loss: TRL "
                    "| largest difference in a step |",
                    "| --- | --- | --- | --- | --- | --- | --- | --- |",
                    *measure(model, store, dtype, args.steps, args.repeats),
                ]
                print("\n".join(lines[-5:]), flush=True)
        shares = [f"{100 * padding(store, order, args.steps):.0f} % {order}" for order in ORDERS]
    responses = 100 * store.response_lengths.sum() / store.lengths.sum()
    sources = " + ".join(MIXED) if args.data else "the shipped E2E NLG sample, rows joined"
    head = [
        f"{sources}: {len(store)} rows of {store.lengths.min()} to {store.lengths.max()} tokens "
        f"(mean {store.lengths.mean():.0f}), {responses:.0f} % of them response; padding of a "
        f"batch of {BATCH}: {', '.join(shares)}.",
        f"Real tokens per second, medians of {args.repeats} interleaved runs of {args.steps} steps "
        f"after {WARM} that are not timed. Goal: staff / TRL ≥ 1.5.",
        f"{machine(f'{torch.get_num_threads()} threads', also=('trl', 'peft'))}; "
        f"{time.monotonic() - start:.0f} s in total.",
    ]
    text = "\n".join(["\n\n".join(head), *lines, ""])
    sys.stdout.write(text)
    if args.write:
        command = command_line(__file__, data=args.data)
        RESULTS.write_text(
            f"# Fine-tuning against TRL\n\n`{command}`, {date.today()}\n\n{text}", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
