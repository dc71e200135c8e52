"""Time fine-tuning steps on given batches, with the trainer that a run uses.

Imports torch and TRL: import it inside the function that needs it.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from staff.models.adapters import lora_config
from staff.models.load import load_model
from staff.models.quantised import NONE
from staff.models.trust import NO_TRUST, Trust
from staff.training.adapter_folder import write_adapter
from staff.training.arguments import repeatable, training_arguments
from staff.training.callbacks import LossCurve
from staff.training.finetune import WARMUP, explain_out_of_memory, quiet
from staff.training.tokens import Tokens
from staff.training.trainer import ResponseTrainer
from staff.types import Ints


class _InOrder(ResponseTrainer):
    """The trainer on batches of our choice, in our order."""

    batches: Sequence[Ints] = ()

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        place = np.argsort(self.rows)  # where in the trainer's data set a row is
        return [int(place[row]) for batch in self.batches for row in batch]


def time_steps(
    model: str,
    tokens: Tokens,
    batches: Sequence[Ints],
    *,
    batch_size: int,
    learning_rate: float,
    dtype: str,
    device: str,
    attention: str = "auto",
    quantize: str = NONE,
    activation_checkpointing: bool = False,
    micro_batch_size: int | None = None,
    trust: Trust = NO_TRUST,
    adapter: Path | None = None,
) -> list[float]:
    """Seconds of each step [k]; one step a batch.

    batches: int64 [batch_size] rows each. adapter: folder to leave the adapter in, if wanted.
    """
    stamps = []
    loaded = load_model(
        model, dtype=dtype, device=device, attention=attention, quantize=quantize, trust=trust
    )
    with tempfile.TemporaryDirectory(prefix="staff-") as scratch, quiet():
        trainer = _InOrder(
            model=loaded,
            args=training_arguments(
                folder=Path(scratch),
                model=loaded,
                epochs=1,
                max_steps=len(batches),
                batch_size=batch_size,
                learning_rate=learning_rate,
                warmup=WARMUP,
                seed=0,
                gradient_checkpointing=activation_checkpointing,
            ),
            peft_config=lora_config(loaded),
            callbacks=[],
            micro_batch_size=micro_batch_size,
            curve=LossCurve(lambda _: stamps.append(time.monotonic())),
            tokens=tokens,
            seed=0,
        )
        trainer.batches = batches
        ready = time.monotonic()
        with (
            explain_out_of_memory(batch_size, int(tokens.lengths.max())),
            repeatable(loaded.device),
        ):
            trainer.run()
        if adapter is not None:
            adapter.mkdir(parents=True)
            write_adapter(adapter, model=trainer.model, base=model, losses=trainer.curve.points)
    return np.diff([ready, *stamps]).tolist()
