"""JSON that a run leaves for a later one: read in one way, whatever became of the file."""

import json
from pathlib import Path
from typing import Any


def read_note(path: Path) -> Any:
    """What a JSON file says.

    Raises OSError if it cannot be read, and ValueError if it is damaged in any way.
    """
    return parse_note(path.read_text(encoding="utf-8"))


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is none, or the file is not there or damaged."""
    try:
        found = read_note(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def parse_note(text: str | bytes) -> Any:
    """What JSON says. Raises ValueError if it is none.

    >>> parse_note("[" * 200_000)
    Traceback (most recent call last):
    ValueError: lists and objects are nested too deeply
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("lists and objects are nested too deeply") from None
