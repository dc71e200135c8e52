"""What the results in a run folder were made from, by content; anything else is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from staff.errors import RunError
from staff.notes import read_note
from staff.runs.store import RunFolder, write_atomic

FILE = ".inputs.json"


def input_facts(**inputs: tuple[Any, str]) -> dict[str, dict[str, str]]:
    """Name -> (where it is, its SHA-256 or another fingerprint), as it is kept."""
    return {
        name.replace("_", " "): {"from": str(place), "sha256": sha256}
        for name, (place, sha256) in inputs.items()
    }


def model_inputs(models: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """The same of models, by role, and of the tokenizers that they were read with.

    models: as in a manifest: ``path``, ``hash`` and ``tokenizer``.
    """
    facts = {role: (model["path"], model["hash"]) for role, model in models.items()}
    facts |= {f"tokenizer_of_{r}": (m["path"], m["tokenizer"]) for r, m in models.items()}
    return input_facts(**facts)


def check_same_inputs(
    folder: RunFolder, now: Mapping[str, Mapping[str, str]], *, overwrite: bool = False
) -> None:
    """Raise `RunError` if something that the results in `folder` were made from has changed.

    Where it lies does not matter. What only one of the two runs used is not compared; nothing
    is if there are no results, or they are to be overwritten.
    """
    if overwrite or not folder.has_results:
        return
    before = _read(folder.path / FILE)
    for name in now.keys() & before.keys():
        was, is_now = before[name], now[name]
        if was["sha256"] != is_now["sha256"]:
            raise RunError(
                f"{folder.path} was made from other contents: the {name}, {is_now['from']}, had "
                f"SHA-256 {was['sha256'][:16]}… then and has {is_now['sha256'][:16]}… now: choose "
                "another --out, or add --overwrite"
            )


def write_inputs(
    folder: Path, now: Mapping[str, Mapping[str, str]], *, overwrite: bool = False
) -> None:
    """Note what results will be made from, beside what earlier ones here were."""
    earlier = {} if overwrite else _read(folder / FILE)
    write_atomic(folder / FILE, json.dumps({**earlier, **now}, indent=1, sort_keys=True) + "\n")


def _read(path: Path) -> dict[str, dict[str, str]]:
    try:
        found = read_note(path)
        return {k: {"from": str(v["from"]), "sha256": str(v["sha256"])} for k, v in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
