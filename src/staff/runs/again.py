"""The same command again: is what it would leave there already, made from the same?

Every verb that can tell leaves a note as its last file (manifest.json, staff.json, metrics.json,
export.json), with ``made_from`` and ``files`` in it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from staff import __version__
from staff.errors import RunError
from staff.hashing import fingerprint, hash_file
from staff.notes import read_object
from staff.runs.manifest import PACKAGES, read_manifest, versions
from staff.runs.settings import Settings
from staff.runs.store import RunFolder

ITEMS, METRICS = "items.parquet", "metrics.json"  # of an evaluation


def made_from(command: str, settings: Mapping[str, Any] | Settings, **inputs: Any) -> str:
    """SHA-256 of all that a result depends on: settings, inputs by content, installed versions.

    Settings that say where something is are part of it as they are spelt: where it is unsure
    whether a result is the same, it is made again. ``overwrite`` is not.
    """
    if isinstance(settings, Settings):
        settings = settings.model_dump(mode="json", exclude={"overwrite"})
    installed = {name: number for name, number in versions().items() if name in PACKAGES}
    return fingerprint([__version__, installed, command, dict(settings), inputs])


def made_already(note: Path, made_from: str) -> dict[str, Any] | None:
    """What a folder's note says, if it was made from the same and its files are as they were."""
    found = read_object(note)
    files = found.get("files")
    if found.get("made_from") != made_from or not isinstance(files, dict):
        return None
    paths = {note.parent / name: sha256 for name, sha256 in files.items()}
    try:
        whole = all(path.is_file() and hash_file(path) == known for path, known in paths.items())
    except OSError:
        return None
    return found if whole else None


def finished_run(folder: RunFolder, made_from: str) -> dict[str, Any] | None:
    """The manifest of a run folder, if the run is finished and would be the same again.

    A selection's report.html is not among the manifest's files, since it can be written again; but
    it has to be there.
    """
    found = made_already(folder.manifest, made_from)
    if found is None or (found.get("command") == "select" and not folder.report.is_file()):
        return None
    try:
        return read_manifest(folder.path)
    except RunError:  # it was edited
        return None


def told(place: str | Path) -> str:
    """What is said where nothing is to be done."""
    return (
        f"already finished: {place} was made from the same inputs, settings and versions, so "
        "nothing was changed; --overwrite makes it again"
    )


def may_be_made(note: Path) -> bool:
    """Whether a note says what its folder was made from, so that it may be what is asked for."""
    return isinstance(read_object(note).get("made_from"), str)


def refuse_results(out: Path) -> None:
    """Raise `RunError` if a folder holds the results of an evaluation."""
    for name in (METRICS, ITEMS):
        if (out / name).exists():
            raise RunError(
                f"{out} contains the results of another evaluation ({name}): choose another "
                "--out, or add --overwrite"
            )
