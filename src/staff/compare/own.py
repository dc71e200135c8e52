"""Coresets of the user's own: training files that are compared like those of a method."""

from collections.abc import Mapping, Sequence

from staff.data.files import open_source
from staff.errors import ConfigError
from staff.planning.counts import tokenised
from staff.progress import Progress
from staff.runs.compare_config import CompareConfig
from staff.selectors import total_of
from staff.words import counted


def hashed(config: CompareConfig) -> dict[str, list[dict[str, str]]]:
    """Path and SHA-256 of every file, each once, by the name it is compared under."""
    found: dict[str, dict[str, dict[str, str]]] = {name: {} for name in config.own}
    for (name, _, _), file in config.own_files().items():
        if file not in found[name]:
            found[name][file] = {"path": file, "sha256": open_source(file).content_hash()}
    return {name: list(files.values()) for name, files in found.items()}


def hash_of_path(own: Mapping[str, Sequence[Mapping[str, str]]]) -> dict[str, str]:
    """SHA-256 of each file by its path; own: as from `hashed`."""
    return {one["path"]: one["sha256"] for files in own.values() for one in files}


def check_sizes(config: CompareConfig, usable: int, *, progress: Progress | None) -> None:
    """Raise `ConfigError` unless each file has as many usable rows as a method's coresets.

    usable: rows of the data that methods choose from. Rows are read as in a fine-tuning, so what
    stops one of such a file (`DataError`) does so here, before anything is trained.
    """
    counts: dict[str, int] = {}
    for (name, keep, _), file in config.own_files().items():
        if file not in counts:
            models = (str(config.target),)
            read = tokenised(config.without_source(), open_source(file), models, progress)
            with read as prepared:
                counts[file] = prepared.usable
        if counts[file] != (wanted := total_of(keep, usable)):
            raise ConfigError(
                f"--own {name}={file} has {counted(counts[file], 'usable row')}, and the coresets "
                f"of keep {keep} have {wanted} (of {counted(usable, 'usable row')}): the "
                "comparison would show the size; give it as many rows, or choose --keep by it"
            )
