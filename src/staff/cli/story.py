"""Rebuild the selection of a stored run, to explain what became of one row."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from staff.errors import ConfigError, RunError
from staff.notes import parse_note
from staff.reports.columns import wrap
from staff.rng import keys_of_ids
from staff.runs.manifest import check_selection, read_manifest
from staff.runs.selection_file import check_regions, coreset_columns, read_selection
from staff.runs.unheeded import heeded_by
from staff.types import REASONS, Budget, Regions, Selection, Verification
from staff.visible import one_line
from staff.words import counted

REJECTED = "rejected.jsonl"


def tell(folder: str | Path, *, id: str | None, row: int | None, width: int = 80) -> str:
    """What became of one row of a finished run, one paragraph per coreset.

    Give the id, or the row's number in the input file. A rejected row has an id if the run was
    given an id column and the row has a value in it.

    Raises:
        RunError: no finished run. ConfigError: no such row.
    """
    from staff.selectors.why import explain

    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest["command"] != "select":
        raise RunError(
            f"{folder} was made by staff {manifest['command']}, which chooses nothing: give the "
            "folder of a finished staff select"
        )
    check_selection(folder, manifest)
    table = read_selection(folder / "selection.parquet")
    ids = table["id"]
    wanted = np.flatnonzero(ids == id if row is None else table["row"] == row)
    if not len(wanted):
        return _rejected(folder, manifest, id=id, row=row)
    at = int(wanted[0])
    keys, name_of_row = keys_of_ids(ids, manifest["seed"]), one_line(ids[at])
    score, scores = _scores(manifest["config"], table)
    if "interpolated" in table and table["interpolated"][at]:
        score = f"interpolated {score}"
    paragraphs = []
    for name in coreset_columns(table):
        selection = rebuild(manifest, table, name)
        sentences = explain(
            at,
            scores=scores,
            selection=selection,
            keys=keys,
            name=f"Row {name_of_row}",
            score=score,
        )
        paragraphs.append("\n".join(wrap(f"{name}: " + " ".join(sentences), max(width, 40))))
    path = one_line(manifest["data"]["path"])
    head = f"Row {table['row'][at]} of {path}, id {name_of_row}"
    return "\n\n".join([head, *paragraphs]) + "\n"


def _scores(config: Mapping[str, Any], table: Mapping[str, Any]) -> tuple[str, Any]:
    """The score the method used: its name in a sentence, and its values [n]; zeros if none."""
    from staff.runs.scored import EFFORT, score_of

    score = score_of(config)
    if score is None:
        return "score", np.zeros(len(table["id"]))
    name = "score on the small model" if score.column == EFFORT else score.title
    return name, score.values(table)


def rebuild(manifest: Mapping[str, Any], table: Mapping[str, Any], name: str) -> Selection:
    """The `Selection` of one coreset, with its regions, verification and budget.

    table: columns of selection.parquet. Without regions in the manifest (a random
    selection) the parts are None.
    """
    codes = {reason: code for code, reason in enumerate(REASONS)}
    reason = np.array([codes[word] for word in table[f"reason@{name}"]], np.int8)
    rows = np.flatnonzero(table[f"selected@{name}"]).astype(np.int64)
    config = manifest["config"]
    method, regions = config.get("method", "staff"), manifest.get("regions")
    column = config.get("quota_column")
    quotas = {"quota_column": column and one_line(repr(column))}
    if not regions:
        details = {**quotas, "take": config.get("take") if "take" in heeded_by(method) else None}
        return Selection(rows=rows, reason=reason, method=method, details=details)
    coreset = next((c for c in manifest["coresets"] if c["name"] == name), None)
    if coreset is None:
        raise RunError(f"coreset {name} is in selection.parquet but not in manifest.json")
    nan = float("nan")
    of_row = _regions(table["region"])
    check_regions(of_row, len(regions))
    return Selection(
        rows=rows,
        reason=reason,
        method=method,
        regions=Regions(
            of_row=of_row,
            edges=np.array([[r["lower"], r["upper"]] for r in regions], float),
        ),
        verification=Verification(
            rows=np.flatnonzero(table["verified"]).astype(np.int64),
            ratio=np.array([nan if r["ratio"] is None else r["ratio"] for r in regions]),
            count=np.array([r["verified"] for r in regions], np.int64),
            interval=np.array([_interval(r["interval"]) for r in regions], float),
            flagged=np.array([bool(r["flagged"]) for r in regions]),
        ),
        budget=Budget(
            count=np.array([r["budgets"].get(name, 0) for r in regions], np.int64),
            total=coreset["total"] - coreset.get("included", 0),
        ),
        details={
            "within": "random" if method == "ccs" else config.get("within", "hardest"),
            "seed": manifest["seed"],
            "verify_per_region": config.get("verify_per_region"),  # a number, or auto
            "verify_against": config.get("verify_against"),
            "allocation": config.get("allocation"),
            **quotas,
            "nested": config.get("nested") and name != _largest(manifest),
        },
    )


def _largest(manifest: Mapping[str, Any]) -> str:
    """The coreset that nested ones lie in."""
    return str(max(manifest["coresets"], key=lambda coreset: coreset["total"])["name"])


def _regions(column: Any) -> Any:
    """Region int64 [n] of each row; -2 where it is null."""
    column = np.asarray(column, np.float64)
    return np.where(np.isnan(column), -2, column).astype(np.int64)


def _interval(interval: list[float | None] | None) -> list[float]:
    low, high = interval or (None, None)
    return [float("nan") if low is None else low, float("nan") if high is None else high]


def _rejected(folder: Path, manifest: Mapping[str, Any], *, id: str | None, row: int | None) -> str:
    """The reason why a row was rejected, or an error if there is no such row."""
    data, path = manifest["data"], one_line(manifest["data"]["path"])
    column = (data.get("reading") or {}).get("id_column")
    for bad in _set_aside(folder):
        if bad.row == row or (id is not None and bad.id_in(column) == id):
            there = [] if id is None else [f"id {one_line(id)}"]
            if bad.file:  # of several; its lines are counted from its start
                there.append(f"in {one_line(bad.file)}")
                there += [] if bad.line is None else [f"line {bad.line}"]
            named = "".join(f", {words}" for words in there) + ("," if there else "")
            return f"Row {bad.row} of {path}{named} was rejected: {one_line(bad.reason)}\n"
    if row is not None:
        raise ConfigError(f"{path} has no row {row}: rows go from 0 to {data['rows_read'] - 1}")
    raise ConfigError(
        f"no row of {folder} has the id {id!r}: {_where_ids_are(folder, data, column)}"
    )


def _where_ids_are(folder: Path, data: Mapping[str, Any], column: str | None) -> str:
    """How to find a row whose id is not known."""
    count = data.get("rejected", 0)
    if not count:
        return "ids are in selection.parquet"
    rows = counted(count, "rejected row")
    if column is None:
        return (
            "ids are in selection.parquet (content hashes, since no --id-column was given); the "
            f"{rows} {'has' if count == 1 else 'have'} none: give --row N"
        )
    kept = "" if (folder / REJECTED).is_file() else ", which is missing"
    return (
        f"ids are in selection.parquet and, for the {rows}, in column {column!r} of "
        f"{REJECTED}{kept}; for a row without an id give --row N"
    )


@dataclass(frozen=True, slots=True)
class _Bad:
    """A line of rejected.jsonl. record: the row as it was parsed, or its text.

    file, line: where it is, in the file where the input has several; None where that has no lines.
    """

    row: int
    reason: str
    record: Any
    file: str | None
    line: int | None

    def id_in(self, column: str | None) -> str | None:
        """Its id, as a usable row would be given it; None where it has none."""
        given = self.record.get(column) if column and isinstance(self.record, dict) else None
        if isinstance(given, bool) or not isinstance(given, str | int) or given == "":
            return None
        return str(given)


def _set_aside(folder: Path) -> Iterator[_Bad]:
    """The rows that a run rejected, in their order; a few are in memory at a time.

    Raises RunError for a file that is damaged.
    """
    place = folder / REJECTED
    if not place.is_file():
        return
    with place.open("rb") as entries:
        for entry in filter(bytes.strip, entries):
            try:
                found = parse_note(entry)
                file, line = found.get("file"), found.get("line")
                bad = _Bad(
                    row=int(found["row"]),
                    reason=str(found["reason"]),
                    record=found.get("record"),
                    file=None if file is None else str(file),
                    line=None if line is None else int(line),
                )
            except (ValueError, KeyError, TypeError, AttributeError):
                raise RunError(f"{place} is damaged: run staff select again") from None
            yield bad
