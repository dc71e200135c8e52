"""Links in a run or comparison folder that lead out of it: neither read nor written."""

from collections.abc import Iterator
from pathlib import Path

from staff.data.places import leads_outside
from staff.errors import RunError

# What is ours there. Folders are looked through; what else lies beside them is the user's.
OURS = (
    *("config.yaml", "manifest.json", "compare.json", "comparison.json", "selection.parquet"),
    *("rejected.jsonl", "report.html", "results.*", "coreset-*"),
    *(".lock", ".stages.json", ".inputs.json", ".manifest.earlier.json", ".*.partial"),
    *("adapter", "scores", "tokens", "cells", "seed-*"),
)


def refuse_links_out(folder: Path) -> None:
    """Raise `RunError` for the first link that leads out of a folder of results.

    The folder itself may be a link: that is where the user wants it.
    """
    for found in listed(folder):
        if not any(found.match(pattern) for pattern in OURS):
            continue
        for path in _below(found):
            if path.is_symlink() and leads_outside(path, folder):
                raise RunError(
                    f"{path} is a link to a place outside {folder} and is not followed: replace it "
                    "with what it points to, or remove it"
                )


def _below(path: Path) -> Iterator[Path]:
    """A path and all that lies below it; of links only themselves."""
    yield path
    if path.is_dir() and not path.is_symlink():
        for child in listed(path):
            yield from _below(child)


def listed(folder: Path) -> list[Path]:
    """What lies in a folder, sorted; nothing if it is none, or a process at work has removed it."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
