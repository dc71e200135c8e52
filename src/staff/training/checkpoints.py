"""Checkpoints of a fine-tuning: complete or absent, and opened only if they are unchanged.

The files are those of the transformers Trainer. STATE is written last: what the training was made
from, the SHA-256 of every file, and our own counts. Nothing in a folder is opened before all of
that has been found to agree, and then without unpickling (weights_only).
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from staff.hashing import hash_file, versions_of
from staff.notes import read_note

STATE = "staff.json"
# What the trainer reads again; of the rest (a pickle of its settings among it) nothing is kept.
FILES = (
    *("adapter_model.safetensors", "adapter_config.json", "trainer_state.json"),
    *("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth"),
)
LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that is whole and of this training. facts: what `seal` was given."""

    folder: Path
    step: int
    facts: Mapping[str, Any]


def seal(written: Path, place: Path, *, step: int, made_from: str, facts: Any) -> None:
    """Move the trainer's files in `written` to `place`/checkpoint-STEP, and drop earlier ones.

    made_from: fingerprint of the training. facts: JSON values to come back with it.
    """
    for path in written.iterdir():
        if path.name not in FILES:
            path.unlink()
    files = {path.name: hash_file(path) for path in sorted(written.iterdir())}
    state = {
        "made_from": made_from,
        "versions": versions_of(*LIBRARIES),
        "step": step,
        "files": files,
        "facts": facts,
    }
    (written / STATE).write_text(json.dumps(state) + "\n", encoding="utf-8")
    for path in written.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync(written)
    finished = place / f"checkpoint-{step}"
    shutil.rmtree(finished, ignore_errors=True)
    written.rename(finished)
    sync(place)
    for other in place.glob("checkpoint-*"):
        if other != finished:
            shutil.rmtree(other)


def find(place: Path, *, made_from: str | None) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The last checkpoint in `place` that this training can go on from; and why others cannot."""
    if made_from is None:
        return None, ()
    said: list[str] = []
    for folder in sorted(place.glob("checkpoint-*"), key=_step, reverse=True):
        try:
            state = read_note(folder / STATE)
            fault = _fault(folder, state, made_from)
            if fault is None:
                return Checkpoint(folder, int(state["step"]), state["facts"]), tuple(said)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            fault = "is damaged"
        said.append(f"{folder.name} {fault}, so fine-tuning does not resume from it")
    return None, tuple(said)


def sync(folder: Path) -> None:
    """Flush a folder's entries: a rename outlives a power cut only then."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _fault(folder: Path, state: Mapping[str, Any], made_from: str) -> str | None:
    if state["made_from"] != made_from:
        return "was made from other data, models or settings"
    if state["versions"] != versions_of(*LIBRARIES):
        return "was made with other versions of torch or its libraries"
    if any(hash_file(folder / name) != known for name, known in state["files"].items()):
        return "is damaged"
    return None


def _step(folder: Path) -> int:
    number = folder.name.removeprefix("checkpoint-")
    return int(number) if number.isdigit() else -1
