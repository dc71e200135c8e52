"""A stored run put together again, to explain the fate of one row."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from staff.errors import ConfigError, RunError
from staff.notes import parse_note
from staff.rng import keys_of_ids
from staff.runs.manifest import check_selection, read_manifest
from staff.runs.selection_file import check_regions, coreset_columns, read_selection
from staff.types import REASONS, Budget, Regions, Selection, Verification
from staff.visible import one_line


def tell(folder: str | Path, *, id: str | None, row: int | None, width: int = 80) -> str:
    """The story of one row of a finished run, a paragraph a coreset.

    Give the id, or the row's number in the input file.

    Raises:
        RunError: no finished run. ConfigError: no such row.
    """
    from staff.selectors.why import explain

    folder = Path(folder)
    manifest = read_manifest(folder)
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
        paragraphs.append(fill(f"{name}: " + " ".join(sentences), max(width, 40)))
    path = one_line(manifest["data"]["path"])
    head = f"Row {table['row'][at]} of {path}, id {name_of_row}"
    return "\n\n".join([head, *paragraphs]) + "\n"


def _scores(config: Mapping[str, Any], table: Mapping[str, Any]) -> tuple[str, Any]:
    """What the method went by: its name in a sentence, and its values [n]; zeros if by none."""
    from staff.selectors import SCORE
    from staff.selectors.ifd import ifd

    method = config.get("method", "staff")
    column = SCORE.get(method)
    if method in ("ccs", "d2"):
        column = config.get("difficulty", column)
    if column is None:
        return "score", np.zeros(len(table["id"]))
    if method == "ifd":
        return "IFD ratio", ifd(table["loss"], table["unconditioned_loss"])
    if column == "effort":
        return "score on the small model", table["score_small"]
    return f"{column.replace('_', ' ')} on the small model", table[column]


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
    if not regions:
        return Selection(rows=rows, reason=reason, method=method)
    coreset = next((c for c in manifest["coresets"] if c["name"] == name), None)
    if coreset is None:
        raise RunError(f"manifest.json and selection.parquet disagree on the coreset {name}")
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
        },
    )


def _regions(column: Any) -> Any:
    """Region int64 [n] of each row; -2 where it is null."""
    column = np.asarray(column, np.float64)
    return np.where(np.isnan(column), -2, column).astype(np.int64)


def _interval(interval: list[float | None] | None) -> list[float]:
    low, high = interval or (None, None)
    return [float("nan") if low is None else low, float("nan") if high is None else high]


def _rejected(folder: Path, manifest: Mapping[str, Any], *, id: str | None, row: int | None) -> str:
    """The reason why a row never took part, or an error when there is no such row."""
    data, path = manifest["data"], one_line(manifest["data"]["path"])
    if row is not None:
        file = folder / "rejected.jsonl"
        lines = file.read_text(encoding="utf-8").split("\n") if file.is_file() else []
        try:
            bad = {found["row"]: found["reason"] for found in map(parse_note, filter(None, lines))}
        except (ValueError, KeyError, TypeError):
            raise RunError(f"{file} is damaged: run staff select again") from None
        if row in bad:
            return f"Row {row} of {path} was set aside: {one_line(str(bad[row]))}\n"
        raise ConfigError(f"{path} has no row {row}: rows go from 0 to {data['rows_read'] - 1}")
    raise ConfigError(f"no row of {folder} has the id {id!r}: ids are in selection.parquet")
