"""Tables of a run: sources, chosen rows compared with all rows, settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from staff.types import Bools, Floats

MAX_SOURCES = 40
SIGNALS = {
    "score_small": "effort score",
    "loss": "loss",
    "entropy": "entropy",
    "el2n": "EL2N score",
    "ifd": "IFD ratio",
    "response_length": "response tokens",
}


@dataclass(frozen=True, slots=True)
class SourceRow:
    """Rows of one source. chosen: coreset -> how many of them it holds."""

    name: str
    rows: int
    cut: int
    score: float | None
    chosen: Mapping[str, int]


def by_source(
    table: Mapping[str, Any], chosen: Mapping[str, Bools], *, scores: Floats | None
) -> list[SourceRow]:
    """Sources from the largest; what comes after `MAX_SOURCES` of them is one row.

    table: columns of selection.parquet, "source" among them. chosen: coreset -> bool [n]. scores:
    those the method goes by, float64 [n], if it goes by any.
    """
    cut = table["region"] == -1  # -2: on a list, not cut
    names, of_row = _numbered(table["source"])
    sizes = np.bincount(of_row, minlength=len(names))
    order = sorted(range(len(names)), key=lambda i: (-sizes[i], names[i]))
    kept = order if len(order) <= MAX_SOURCES else order[: MAX_SOURCES - 1]
    groups = [(names[i], of_row == i) for i in kept]
    if rest := order[len(kept) :]:
        groups.append((f"({len(rest)} more sources)", np.isin(of_row, rest)))
    return [
        SourceRow(
            name,
            int(rows.sum()),
            int((rows & cut).sum()),
            None if scores is None else median(scores[rows]),
            {coreset: int((rows & mask).sum()) for coreset, mask in chosen.items()},
        )
        for name, rows in groups
    ]


def _numbered(sources: Sequence[str | None]) -> tuple[list[str], NDArray[np.int64]]:
    numbers: dict[str, int] = {}
    named = ("(no source)" if s is None else s or "(empty)" for s in sources)
    of_row = np.fromiter(
        (numbers.setdefault(name, len(numbers)) for name in named), np.int64, len(sources)
    )
    return list(numbers), of_row


def medians(table: Mapping[str, Any], chosen: Mapping[str, Bools]) -> list[dict[str, Any]]:
    """Median of every signal that is known, over all rows and over each coreset.

    A few rows may be without any, those whose score is not finite.
    """
    known = {words: table[column] for column, words in SIGNALS.items() if column in table}
    return [
        {
            "name": words,
            "all": median(values),
            "chosen": {name: median(values[mask]) for name, mask in chosen.items()},
        }
        for words, values in known.items()
        if not np.isnan(values).all()
    ]


def median(values: NDArray[np.float64]) -> float | None:
    """The median of the values that are known; None if none is."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else None


def settings(manifest: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Every setting that was given or has a default, then where data, models and code are from."""
    facts = {
        name: value for name, value in manifest["config"].items() if value not in (None, [], {})
    }
    facts["data sha256"] = manifest["data"].get("sha256")
    facts["data revision"] = manifest["data"].get("revision")
    facts["test revision"] = (manifest.get("test") or {}).get("revision")
    facts["test sha256"] = (manifest.get("test") or {}).get("sha256")
    for name, files in (manifest.get("own") or {}).items():
        facts[f"own {name} sha256"] = [one["sha256"] for one in files]
    for role, model in (manifest.get("models") or {}).items():
        facts[f"{role} sha256"] = model.get("hash")
        facts[f"{role} revision"] = model.get("revision")
    facts |= {f"device {k}": v for k, v in (manifest.get("device") or {}).items()}
    facts |= manifest.get("versions") or {}
    return [(name.replace("_", " "), value) for name, value in facts.items() if value is not None]
