"""SHA-256 of files and of facts."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any


def hash_file(path: str | Path) -> str:
    """SHA-256 (hex) of a file's bytes, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(facts: Any) -> str:
    """SHA-256 (hex) of facts in canonical JSON.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def versions_of(*packages: str) -> dict[str, str]:
    """Installed versions: what another version made need not be the same."""
    return {name: version(name) for name in packages}
