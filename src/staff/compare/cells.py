"""The cells of a comparison: fine-tune the target on one file and evaluate it.

A cell is identified by the contents of everything it depends on, and its cell.json is written last.
Its adapter is kept, so that metrics added later need no second fine-tuning.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from staff import single
from staff.hashing import fingerprint, hash_file, versions_of
from staff.notes import read_object
from staff.progress import Progress, SilentProgress
from staff.runs.compare_cells import DONE, FULL, Cell
from staff.runs.compare_config import CompareConfig
from staff.runs.config import EvaluateConfig, FinetuneConfig
from staff.runs.manifest import write_manifest
from staff.runs.shared_settings import READING, RECIPE, SPREADING, TRUST
from staff.training.adapter_folder import file_hashes, has_files
from staff.training.checkpoints import LIBRARIES

TUNED = "tuning.json"
COST = ("rows", "steps", "tokens", "seconds", "last_loss")  # what it says of a tuning
# Settings that tuning and evaluating take from the comparison as they are, beside the recipe.
MEMORY = ("micro_batch_size", "activation_checkpointing")  # change no result but by rounding
COMMON = (*READING, *TRUST, "max_length", "on_bad_row", "dtype", "device", "quantize")


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a cell is made from.

    file: to tune on, with its SHA-256; neither for `untuned`. max_steps: of the tuning.
    target: what the model is (hash, tokenizer, dtype, quantisation). generation: SHA-256 of what
    says how its answers end. test: SHA-256 of the test data.
    """

    target: Mapping[str, Any]
    test: str
    file: Path | None = None
    sha256: str | None = None
    max_steps: int | None = None
    generation: str | None = None


def finished(
    cell: Cell, config: CompareConfig, inputs: Inputs, *, folder: Path
) -> dict[str, Any] | None:
    """A finished cell's cell.json; None if it is not there, of something else or damaged."""
    found = read_object(folder / DONE)
    _, made_from = fingerprints(cell, config, inputs)
    if found.get("made_from") != made_from or not set(config.metrics) <= set(found["metrics"]):
        return None
    items = folder / "items.parquet"
    return found if items.is_file() and hash_file(items) == found["items"] else None


def run_cell(
    cell: Cell,
    config: CompareConfig,
    inputs: Inputs,
    *,
    folder: Path,
    check: Callable[[], None] = lambda: None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Tune, unless an earlier start did, and evaluate; returns cell.json, which is written last.

    check: raises if what was read is not what `inputs` says any more; called before something is
    marked as done.
    """
    tuned_from, made_from = fingerprints(cell, config, inputs)
    (folder / DONE).unlink(missing_ok=True)
    tuning = _tune(cell, config, inputs, folder, tuned_from, check, progress)
    reading = config.without_source()  # which the fingerprints have, as they always had
    measured = single.evaluate(
        EvaluateConfig(
            data=config.test,
            model=config.target,
            adapter=None if tuning is None else str(folder / "adapter"),
            metrics=config.metrics,
            max_new_tokens=config.max_new_tokens,
            batch_tokens=config.batch_tokens,
            out=str(folder),
            overwrite=True,
            **{name: getattr(reading, name) for name in (*COMMON, *SPREADING)},
        ),
        progress=progress,
    )
    found = {
        "cell": cell.name,
        "method": cell.method,
        "keep": cell.keep,
        "seed": cell.seed,
        "made_from": made_from,
        "tuned_on": inputs.sha256,
        "metrics": list(config.metrics),
        "tuning": tuning,
        "test": {k: measured[k] for k in ("rows", "rejected", "truncated")},
        "values": {metric: measured[metric]["value"] for metric in config.metrics},
        "items": hash_file(folder / "items.parquet"),
    }
    check()
    write_manifest(folder / DONE, found)
    return found


def fingerprints(cell: Cell, config: CompareConfig, inputs: Inputs) -> tuple[str, str]:
    """SHA-256 of all that the tuning depends on, and of all that the cell depends on.

    The metrics are not part of it: a cell that has more of them than asked for will do.
    """
    shared: dict[str, Any] = {"target": dict(inputs.target), "max_length": config.max_length}
    shared["versions"] = versions_of("staff-coreset", *LIBRARIES)
    shared |= {k: getattr(config, k) for k in READING}
    if config.attention != "auto":  # its rounding; cells without one are as they were
        shared["attention"] = config.attention
    tuning = {"data": inputs.sha256, "max_steps": inputs.max_steps, "seed": cell.seed}
    tuning |= {k: getattr(config, k) for k in RECIPE}
    if _on_duplicate(cell, config) != "keep":
        tuning["on_duplicate"] = config.on_duplicate
    tuned = fingerprint(shared | tuning if inputs.file is not None else None)
    measured = {"tuned": tuned, "test": inputs.test, "max_new_tokens": config.max_new_tokens}
    measured["generation"] = inputs.generation
    return tuned, fingerprint(shared | measured)


def _on_duplicate(cell: Cell, config: CompareConfig) -> Literal["keep", "skip"]:
    """What a cell's tuning does with duplicates.

    A coreset has none that were to be skipped, and one of the user's own is taken as it is.
    """
    return config.on_duplicate if cell.method == FULL else "keep"


def _tune(
    cell: Cell,
    config: CompareConfig,
    inputs: Inputs,
    folder: Path,
    made_from: str,
    check: Callable[[], None],
    progress: Progress | None,
) -> dict[str, Any] | None:
    """What tuning cost; the adapter of an earlier start is kept. None if there is none to do."""
    if inputs.file is None:
        return None
    stamp, adapter = folder / TUNED, folder / "adapter"
    found = read_object(stamp)
    if found.get("made_from") == made_from:
        if has_files(adapter, found.get("files")):
            return {k: found[k] for k in COST}
        with (progress or SilentProgress()).stage("fine-tune") as stage:
            stage.note(
                "the adapter of an earlier run is damaged or changed, and will be made again"
            )
    stamp.unlink(missing_ok=True)  # or it would speak of the next adapter, should this stop

    def mark(facts: Mapping[str, Any]) -> None:
        check()
        done = {"made_from": made_from, "files": file_hashes(adapter)}
        write_manifest(stamp, done | {k: facts[k] for k in COST})

    reading = config.without_source()
    facts = single.finetune(
        FinetuneConfig(
            data=str(inputs.file),
            model=config.target,
            out=str(adapter),
            max_steps=inputs.max_steps,
            seed=cell.seed or 0,
            overwrite=True,
            checkpoint_seconds=config.checkpoint_seconds,
            attention=config.attention,
            on_duplicate=_on_duplicate(cell, config),
            **{name: getattr(reading, name) for name in (*RECIPE, *MEMORY, *COMMON)},
        ),
        progress=progress,
        on_placed=mark,
    )
    return {k: facts[k] for k in COST}
