"""Stage 1: fine-tune a model on tokenised rows with LoRA, through TRL and PEFT.

Step 1 of docs/method.md (Zhang et al., ICLR 2025); the defaults are the released
code's: 3 epochs, batch 8, learning rate 1e-4, cosine, 10 % warm-up, rank 8, alpha 16.
"""

import logging
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from staff.data.places import refuse_link
from staff.errors import (
    ConfigError,
    DataError,
    DiskFullError,
    MemoryFullError,
    ProcessGoneError,
    StaffError,
)
from staff.models.memory import is_out_of_memory
from staff.models.quantised import NONE
from staff.models.trust import NO_TRUST, Trust
from staff.progress import Progress, SilentProgress
from staff.rng import stream_seed
from staff.training import checkpoints
from staff.training.adapter_folder import check_out, checkpoints_of, place_adapter, write_adapter
from staff.training.divergence import check_converged, check_finite
from staff.training.tokens import Tokens
from staff.words import counted, rows_of

if TYPE_CHECKING:
    from staff.training.callbacks import LossPoint
    from staff.training.share import Share
    from staff.training.trainer import ResponseTrainer

WARMUP = 0.1  # share of all steps over which the learning rate rises
QUIET = ("transformers", "trl", "peft", "accelerate", "datasets")


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """What a fine-tuning left and cost.

    adapter: the folder, complete.
    losses: (step, loss) of every step.
    rows: rows trained on in one epoch; tokens, response_tokens: over all epochs,
        padding aside; seconds: training alone, without loading and saving.
    """

    adapter: Path
    losses: tuple[tuple[int, float], ...]
    rows: int
    steps: int
    tokens: int
    response_tokens: int
    seconds: float


def finetune(
    *,
    model: Any,
    tokens: Tokens,
    out: Path,
    epochs: int = 3,
    batch_size: int = 8,
    learning_rate: float = 1e-4,
    rank: int = 8,
    alpha: int = 16,
    seed: int = 0,
    dtype: str = "auto",
    device: str = "auto",
    quantize: str = NONE,
    trust: Trust = NO_TRUST,
    gradient_checkpointing: bool = False,
    micro_batch_size: int | None = None,
    fsdp: bool = False,
    attention: str = "auto",
    max_steps: int | None = None,
    made_from: str | None = None,
    checkpoint_seconds: float = 60.0,
    overwrite: bool = False,
    share: "Share | None" = None,
    name: str = "fine-tune",
    progress: Progress | None = None,
    on_log: "Callable[[LossPoint], None] | None" = None,
    on_written: Callable[[Path, FinetuneResult], None] = lambda *_: None,
    on_placed: Callable[[FinetuneResult], None] = lambda _: None,
) -> FinetuneResult:
    """Fine-tune on every row and write a LoRA adapter folder.

    A new folder appears complete or not at all. With one seed, one machine and one
    number of threads its bytes are the same every time, however often the training was
    stopped and gone on with from a checkpoint (`made_from`). (TRL seeds the global
    generators of Python, NumPy and torch for that; afterwards they are as they were.)

    Args:
        model: path or hub id, or a loaded causal LM, which is changed (LoRA layers are
            put into it). The adapter config names the base model as it is given here.
        tokens: the rows, already cut to length; each has at least one response token.
        out: the adapter folder to create; must not hold anything yet, unless `overwrite`.
        dtype, device, attention, quantize, trust: as in `models.load.load_model`; not used for a
            loaded model. LoRA on quantised weights is QLoRA; the adapter itself stays in float32.
        gradient_checkpointing: keep only each block's input for the backward pass, and compute the
            block again there: less memory, more time, the same result.
        micro_batch_size: rows computed at once; a step takes the gradients of a whole batch.
        fsdp: divide the frozen weights among the processes of `share`, on their devices.
        max_steps: stop after so many steps, whatever `epochs` says.
        made_from: fingerprint of all that the result depends on. With it checkpoints are kept
            beside `out` while training lasts, and a call with the same goes on from the last.
        checkpoint_seconds: between checkpoints; 0 makes one after every step.
        overwrite: replace the adapter in `out` once the new one is complete; any other
            file there stays.
        share: of several processes that call this at once, with all else the same: `batch_size`
            is what they take together. Number 0 alone writes files.
        name: of the progress stage.
        on_log: called after every step.
        on_written: called with the folder of the complete adapter before it is moved to `out`, to
            note in it (`STAMP`) what it was made from: both are there at once.
        on_placed: called once the adapter is in its place, to note that it is: the checkpoints go
            afterwards, so that a process killed in between costs no more than any other.

    Raises:
        ConfigError: a setting is out of range. DataError: there are no rows.
        RunError: `out` holds files and `overwrite` is off.
        StaffError: the loss is not finite or rose, memory ran out, or TRL did not train on
            exactly what it was given.
    """
    _check_settings(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate)
    _check_settings(rank=rank, alpha=alpha, max_steps=1 if max_steps is None else max_steps)
    _check_settings(micro_batch_size=1 if micro_batch_size is None else micro_batch_size)
    n = len(tokens.lengths)
    if n == 0:
        raise DataError("there are no rows to fine-tune on")
    check_out(out, overwrite=overwrite)

    from staff.models.adapters import lora_config
    from staff.training.arguments import repeatable, training_arguments
    from staff.training.callbacks import LossCurve, SaveEvery, StopAfterStep
    from staff.training.trainer import ResponseTrainer

    how: dict[str, Any] = {"dtype": dtype, "device": device, "attention": attention, "trust": trust}
    model, base = _loaded(model, fsdp=fsdp, quantize=quantize, **how)
    total = max_steps or epochs * -(-n // batch_size)
    partial = checkpoints_of(out)
    refuse_link(partial)
    # Of several processes the others may have made the folder just now.
    begun = made_from is not None and share is None and partial.is_dir()
    start, said = _start_of(partial, made_from, share)
    leads = share is None or share.rank == 0
    if start is None and leads:
        shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, exist_ok=True)
    finished = partial / "adapter"
    try:
        with (
            quiet(),
            generators_kept(model.device),
            (progress or SilentProgress()).stage(name, total=total, unit="steps") as stage,
        ):

            def note(point: "LossPoint") -> None:
                stage.advance()
                if on_log is not None:
                    on_log(point)

            for text in said:
                stage.note(text)
            curve = LossCurve(note)
            callbacks: list[Any] = [SaveEvery(checkpoint_seconds)] if leads else []
            stop = StopAfterStep()
            # Several processes would stop after different steps.
            waits = made_from is not None and share is None
            trainer = ResponseTrainer(
                model=model,
                args=training_arguments(
                    folder=partial,
                    model=model,
                    epochs=epochs,
                    max_steps=max_steps,
                    batch_size=batch_size,
                    learning_rate=learning_rate,
                    warmup=WARMUP if total > 1 else 0.0,  # or the only step would be at a rate of 0
                    seed=stream_seed(seed, "fine-tune") % 2**32,
                    gradient_checkpointing=gradient_checkpointing,
                ),
                peft_config=lora_config(model, rank=rank, alpha=alpha),
                callbacks=[*callbacks, stop],
                share=share,
                micro_batch_size=micro_batch_size,
                curve=curve,
                made_from=made_from,
                tokens=tokens,
                seed=stream_seed(seed, "fine-tune order") % 2**63,
            )
            if start is not None:
                stage.note(f"resumes after step {start.step} of {total}")
                stage.skip(start.step)
            elif said or begun:
                why = (
                    "an earlier start left no checkpoint to resume from (one is written every "
                    f"{checkpoint_seconds:g} s): "
                )
                stage.note(f"{'' if said else why}begins at step 1 of {total}")
            longest = int(tokens.lengths.max())
            at_once = min(batch_size, micro_batch_size or batch_size)
            with (
                explain_out_of_memory(at_once, longest),
                repeatable(model.device),
                stop if waits else nullcontext(),
            ):
                trainer.run(start)
            seconds = trainer.seconds
        check_counts(trainer, epochs=None if max_steps else epochs)
        check_converged([point.loss for point in curve.points])
        check_finite(trainer.trained)
        result = FinetuneResult(
            adapter=out,
            losses=tuple((point.step, point.loss) for point in curve.points),
            rows=n,
            steps=len(curve.points),
            tokens=int(trainer.seen @ tokens.lengths),
            response_tokens=trainer.response_tokens,
            seconds=seconds,
        )
        if leads:
            shutil.rmtree(finished, ignore_errors=True)
            finished.mkdir()
            write_adapter(finished, model=trainer.model, base=base, losses=curve.points)
            on_written(finished, result)
            place_adapter(finished, out)
            on_placed(result)
    except BaseException as error:
        # What it went wrong with is of no use to a training with other settings.
        # The same command goes on after these, and a smaller micro-batch where memory ran out.
        kept_for: tuple[type[StaffError], ...] = (DiskFullError, ProcessGoneError)
        if any(partial.glob("checkpoint-*")):
            kept_for += (MemoryFullError,)
        hopeless = isinstance(error, StaffError) and not isinstance(error, kept_for)
        if leads and (made_from is None or hopeless):
            shutil.rmtree(partial, ignore_errors=True)
        raise
    if leads:
        shutil.rmtree(partial, ignore_errors=True)
    return result


def _loaded(model: Any, *, fsdp: bool, quantize: str, **how: Any) -> tuple[Any, str]:
    """The model that is trained, and what the adapter config is to call it."""
    if not isinstance(model, str | Path):
        return model, model.name_or_path
    if fsdp:
        from staff.training.sharding import load_sharded

        return load_sharded(str(model), **how), str(model)
    from staff.models.load import load_model

    return load_model(str(model), quantize=quantize, **how), str(model)


def _start_of(
    partial: Path, made_from: str | None, share: "Share | None"
) -> tuple[checkpoints.Checkpoint | None, tuple[str, ...]]:
    """The checkpoint that a training goes on from, and why it cannot from others.

    Raises StaffError where processes find different ones: they would add up gradients of others.
    """
    start, said = checkpoints.find(partial, made_from=made_from)
    step = start.step if start else 0
    if share is not None and not share.agrees(step):
        raise StaffError(
            f"not all processes find the same checkpoint in {partial} (process {share.rank}: step "
            f"{step}): run the same command again, with a run folder that all machines share"
        )
    return start, said


def check_counts(trainer: "ResponseTrainer", *, epochs: int | None) -> None:
    """Compare what entered the loss with what was handed over.

    Args:
        trainer: after training; `seen` and `response_tokens` are its own counts.
        epochs: how often each row should have been seen; None where a step limit
            ended the training, then no row may be more than one ahead of another.

    Raises:
        StaffError: rows were dropped or repeated, or other tokens entered the loss.
    """
    seen, lengths = trainer.seen, trainer.tokens.response_lengths
    wrong = seen - seen.min() > 1 if epochs is None else seen != epochs
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        expected = "evenly" if epochs is None else counted(epochs, "time")
        raise StaffError(
            f"the trainer was given {len(seen)} rows to train on {expected}, but {wrong.sum()} of "
            f"them were trained on another number of times (row {first}: "
            f"{counted(int(seen[first]), 'time')})"
        )
    given = int(seen @ lengths.astype(np.int64))
    if given != trainer.response_tokens:
        raise StaffError(
            f"the trainer was given {given} response tokens, but {trainer.response_tokens} entered "
            "the loss; the token store does not fit the rows it holds"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' notices away from the user's terminal; errors still come through."""
    loggers = [logging.getLogger(name) for name in QUIET]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def generators_kept(device: Any) -> Iterator[None]:
    """Give back the global generators as they were: the caller's draws must not begin anew.

    Of GPUs that of `device` alone: looking after the others would start each of them.
    """
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def explain_out_of_memory(batch_size: int, longest: int) -> Iterator[None]:
    """Turn an allocation failure into advice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not is_out_of_memory(error):
            raise
        lower = "--max-length" if batch_size == 1 else "--micro-batch-size or --max-length"
        raise MemoryFullError(
            f"not enough memory to fine-tune on {rows_of(batch_size)} of up to {longest} tokens at "
            f"once; lower {lower}, add --activation-checkpointing, or use another --device"
        ) from error


def _check_settings(**values: float) -> None:
    """Refuse settings that are not above zero."""
    for key, value in values.items():
        if not value > 0:
            raise ConfigError(f"{key.replace('_', ' ')} must be above 0; it is {value}")
