"""Growth of peak memory over one step of fine-tuning: micro-batches, activation checkpointing.

  python benchmarks/training_memory.py --write   # writes benchmarks/results/training_memory.md

A Llama of 12 blocks of 192 with random weights, 16 rows of 256 tokens, on the CPU in float32. Every
way is a process of its own, once as glibc's heap is and once with MALLOC_MMAP_THRESHOLD_, which
gives freed memory back at once: else the heap, full of holes, is measured.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from written import command_line, machine

RESULTS = Path(__file__).parent / "results" / "training_memory.md"
WAYS: dict[str, dict[str, Any]] = {
    "the whole batch at once": {},
    "--micro-batch-size 2": {"micro_batch_size": 2},
    "--activation-checkpointing": {"gradient_checkpointing": True},
    "both": {"micro_batch_size": 2, "gradient_checkpointing": True},
}
TIGHT = {"MALLOC_MMAP_THRESHOLD_": "65536"}
STEP = """
import json, sys
from pathlib import Path
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from staff.planning import peak
from staff.training.finetune import finetune
from staff.types import TokenisedExample

class Rows:
    ids = [str(i) for i in range(16)]
    lengths = response_lengths = np.full(16, 256)
    def get(self, positions):
        ids = np.random.default_rng(0).integers(3, 1000, 256)
        return [TokenisedExample("x", ids, np.r_[-100, ids[1:]]) for _ in positions]

Rows.response_lengths = Rows.lengths - 1
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=1000, hidden_size=192, intermediate_size=528, num_hidden_layers=12,
    num_attention_heads=4, max_position_embeddings=512,
)).requires_grad_(False)
before = peak.read("cpu")  # not getrusage's, which begins with that of the parent process
finetune(model=model, tokens=Rows(), out=Path(sys.argv[1]), max_steps=1, batch_size=16,
         **json.loads(sys.argv[2]))
print(peak.read("cpu") - before)
"""


def grown(how: dict[str, Any], *, tight: bool) -> int:
    """Bytes by which a step of fine-tuning with these settings raises the peak."""
    with tempfile.TemporaryDirectory(prefix="staff-memory-") as folder:
        command = [sys.executable, "-c", STEP, f"{folder}/tuned", json.dumps(how)]
        environment = {**os.environ, **(TIGHT if tight else {})}
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=environment
        )
    return int(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    lines = [
        "| way | MiB, glibc's heap as it is | MiB, freed memory given back |",
        "| --- | --- | --- |",
    ]
    for name, how in WAYS.items():
        plain, tight = (grown(how, tight=tight) / 2**20 for tight in (False, True))
        lines.append(f"| {name} | {plain:,.0f} | {tight:,.0f} |")
    page = (
        "# Peak memory of a step of fine-tuning\n\n"
        f"`{command_line(__file__)}`, {date.today()}, {machine()}.\n"
        "Growth over one step: a Llama of 12 blocks of 192, 16 rows of 256 tokens,\n"
        "CPU, float32.\n\n" + "\n".join(lines) + "\n"
    )
    print(page)
    if arguments.write:
        RESULTS.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
