"""The results as Parquet, CSV and Markdown."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from staff.reports.compared import markdown_compared
from staff.runs.store import write_atomic
from staff.visible import visible

_TEXTS = ("metric", "method", "best", "random_verdict", "best_verdict")
_COUNTS = ("rows", "seeds", "items")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes text for that begins so


def write_results(folder: Path, result: Mapping[str, Any]) -> list[Path]:
    """Write results.parquet, results.csv and results.md from compare.json's contents."""
    rows: Sequence[Mapping[str, Any]] = result["results"]
    schema = pa.schema([(name, _type(name)) for name in rows[0]])
    table = pa.Table.from_pylist(list(rows), schema=schema)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    # Quotes what has to be; null is empty.
    writer.writerows({name: _defused(value) for name, value in row.items()} for row in rows)
    paths = [folder / f"results.{ending}" for ending in ("parquet", "csv", "md")]
    write_atomic(paths[0], lambda file: pq.write_table(table, file))
    write_atomic(paths[1], text.getvalue())
    write_atomic(paths[2], markdown_compared(result))
    return paths


def _defused(value: Any) -> Any:
    """Text that a spreadsheet would compute begins with an apostrophe; numbers stay numbers.

    >>> _defused("=1+1"), _defused(-0.5), _defused("k-centre")
    ("'=1+1", -0.5, 'k-centre')
    """
    if not isinstance(value, str):
        return value
    text = visible(value)  # a bare carriage return would end the line: csv does not quote it
    return f"'{text}" if value.startswith(_FORMULA) else text


def _type(name: str) -> pa.DataType:
    if name in _TEXTS:
        return pa.string()
    return pa.int64() if name in _COUNTS else pa.float64()
