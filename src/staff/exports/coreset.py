"""One coreset of a finished run: found, held against the manifest, and what is known of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from staff.data.files import open_source
from staff.data.raw import RawRecord
from staff.data.records import RecordOptions
from staff.errors import ConfigError, RunError
from staff.hashing import hash_file
from staff.runs.manifest import check_selection, read_manifest
from staff.runs.selection_file import coreset_columns, read_numbers
from staff.runs.settings import coreset_name
from staff.runs.store import CORESET


@dataclass(frozen=True, slots=True)
class Coreset:
    """A coreset as the manifest has it.

    name: ``0.1``, ``n500``, ``t2000``. options: how its records are read. rows: how many there
    are. longest: tokens of its longest row as the target counts them; None if nobody counted.
    max_length: where the run cut, if it was told where.
    """

    name: str
    path: Path
    sha256: str
    options: RecordOptions
    rows: int
    longest: int | None
    max_length: int | None
    seed: int
    manifest: Mapping[str, Any]

    def records(self) -> Iterator[RawRecord]:
        """Its rows, in their order.

        Raises:
            RunError: the file is not the one that the manifest names (any more).
        """
        yield from open_source(self.path).records()
        if hash_file(self.path) != self.sha256:
            raise _another(self.path)


def find_coreset(run: str | Path, keep: str | None) -> Coreset:
    """The coreset of a finished run that `keep` names, as a fraction or by its name.

    Without `keep` the only one there is.

    Raises:
        RunError: no finished run of staff select; its files are not those of its manifest.
        ConfigError: no coreset of that name, or none is named and there are several.
    """
    folder = Path(run)
    manifest = read_manifest(folder)
    if manifest["command"] != "select" or not manifest["coresets"]:
        raise RunError(
            f"{folder} was made by staff {manifest['command']}, which chooses nothing: give the "
            "folder of a finished staff select"
        )
    check_selection(folder, manifest)
    by_name = {_name(coreset["path"]): coreset for coreset in manifest["coresets"]}
    name = _chosen(list(by_name), keep, folder)
    path = folder / by_name[name]["path"]
    known = manifest.get("files", {}).get(path.name)
    if known is None:
        raise RunError(
            f"{folder / 'manifest.json'} does not say what {path.name} holds: run staff select "
            "again with the same settings"
        )
    if not path.is_file():
        raise RunError(
            f"{path} is missing: put it back, or run staff select again with the same settings"
        )
    if hash_file(path) != known:
        raise _another(path)
    reading = manifest["data"].get("reading")
    if not reading:
        raise RunError(
            f"{folder} is of an earlier staff, which did not note the columns: run staff select "
            "again with the same settings"
        )
    length = manifest["config"].get("max_length")
    return Coreset(
        name=name,
        path=path,
        sha256=known,
        options=replace(RecordOptions(), **reading),
        rows=by_name[name]["total"],
        longest=_longest(folder / "selection.parquet", name),
        max_length=length if type(length) is int and length > 0 else None,
        seed=manifest["seed"],
        manifest=manifest,
    )


def _name(path: str) -> str:
    """``0.1`` of ``coreset-0.1.jsonl``: the manifest's own word for it may be anything."""
    found = CORESET.fullmatch(path)
    assert found is not None  # `read_manifest` refuses any other
    return found[1]


def _chosen(names: list[str], keep: str | None, folder: Path) -> str:
    listed = ", ".join(names)
    if keep is None:
        if len(names) == 1:
            return names[0]
        raise ConfigError(f"{folder} has several coresets: say which with --keep, one of {listed}")
    try:
        wanted = keep if keep in names else coreset_name(float(keep))
    except (ValueError, ArithmeticError):
        wanted = keep
    if wanted not in names:
        raise ConfigError(
            f"{folder} has no coreset {keep!r}; --keep takes one of {listed} "
            f"(others: staff select --scores {folder} --keep …)"
        )
    return wanted


def _longest(selection: Path, name: str) -> int | None:
    """Tokens of the longest row of a coreset; None where they are not known."""
    table = read_numbers(selection, ("tokens",))
    if name not in coreset_columns(table):
        raise RunError(f"manifest.json and selection.parquet disagree on the coreset {name}")
    if "tokens" not in table:
        return None
    tokens = np.asarray(table["tokens"], np.float64)[table[f"selected@{name}"].astype(bool)]
    return None if not len(tokens) or np.isnan(tokens).any() else int(tokens.max())


def _another(path: Path) -> RunError:
    return RunError(
        f"{path} is not the file that manifest.json names: it was changed, or is of another run. "
        "Run staff select again with the same settings."
    )
