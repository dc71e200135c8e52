"""Scores on disk: Parquet parts that are complete or absent and carry their fingerprint."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from staff.data.writers import replacing
from staff.errors import RunError
from staff.ids import Ids
from staff.types import Ints, ScoreTable, read_only

FINGERPRINT = b"staff.fingerprint"
CONTENT = b"staff.content"  # SHA-256 (hex) of all else: page checksums do not cover the footer
FIXED = ("id", "row", "position")  # the columns that are no scores
LAYOUT = "staff scores 2"


class ShardCache(Protocol):
    """Parts that serve several folders of scores; `staff.runs.cache.Cache` is one."""

    def fetch_shard(self, key: str, out: Path) -> bool:
        """Copy a part to `out`; whether there was one."""

    def keep_shard(self, key: str, shard: Path) -> bool:
        """Take a copy of a finished part; whether that was permitted."""


def part_path(folder: Path, number: int) -> Path:
    """Where part `number` lies."""
    return folder / f"part-{number:05d}.parquet"


def canonical(fingerprint: Mapping[str, Any]) -> bytes:
    """What the parts are made from, as they keep it."""
    return json.dumps({"layout": LAYOUT, **fingerprint}, sort_keys=True).encode()


def part_key(made_from: bytes, positions: Ints) -> str:
    """SHA-256 (hex) of what a part holds, wherever it lies."""
    rows = np.ascontiguousarray(positions, np.int64).tobytes()
    return hashlib.sha256(made_from + b"\0" + rows).hexdigest()


def write_part(
    path: Path,
    *,
    ids: Sequence[str],
    rows: Ints,
    positions: Ints,
    columns: Mapping[str, Any],
    fingerprint: bytes,
) -> None:
    """Write one part atomically. columns: float64 [m] each, or float32 [m, D] (features)."""
    arrays = {
        "id": pa.array(ids, pa.string()),
        "row": pa.array(rows, pa.int64()),
        "position": pa.array(positions, pa.int64()),
    }
    table = pa.table({**arrays, **{name: as_arrow(values) for name, values in columns.items()}})
    content = _content_hash(table, fingerprint).encode()
    table = table.replace_schema_metadata({FINGERPRINT: fingerprint, CONTENT: content})
    with replacing(path) as part:
        pq.write_table(table, part, write_page_checksum=True)


def as_arrow(values: Any) -> Any:
    """A column float64 [m] or float32 [m, D] as Arrow's."""
    if values.ndim == 1:
        return pa.array(values, pa.float64())
    flat = pa.array(values.ravel(), pa.float32())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def as_numpy(column: Any) -> Any:
    """A column that `as_arrow` made."""
    values = column.combine_chunks()
    if pa.types.is_fixed_size_list(column.type):
        return values.flatten().to_numpy().reshape(-1, column.type.list_size)
    return values.to_numpy()


def read_part(path: Path, *, fingerprint: bytes, positions: Ints) -> tuple[Any, str]:
    """The part's table if it is whole, made from the same and of these positions.

    Else None, and what is wrong with it; of one that is not there nothing is.
    """
    if not path.exists():
        return None, ""
    if _facts(path).get(FINGERPRINT, fingerprint) != fingerprint:
        return None, "was made from other data, models or settings"
    table = _read_whole(path)
    if table is None:
        return None, "is damaged"
    if not np.array_equal(table["position"].to_numpy(), positions):
        return None, "is for other rows"
    return table, ""


def _read_whole(path: Path) -> Any:
    """A part's table, if it holds to the last bit what was written; else None."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        facts = table.schema.metadata
        whole = facts[CONTENT].decode() == _content_hash(table, facts[FINGERPRINT])
    except Exception:  # a changed footer may lead the reader, and what follows, to any of them
        return None
    return table if whole else None


def _facts(path: Path) -> Mapping[bytes, bytes]:
    """What a part says of itself; nothing if it cannot be read."""
    try:
        return pq.read_schema(path).metadata or {}
    except Exception:  # see `_read_whole`
        return {}


def _content_hash(table: Any, fingerprint: bytes) -> str:
    """SHA-256 (hex) of the columns' names, types and values, and of what they were made from.

    However a reader cuts them into chunks: Arrow's own bytes differ with that.
    """
    digest = hashlib.sha256(fingerprint)
    for name, column in zip(table.column_names, table.columns, strict=True):
        values, facts = column.combine_chunks(), [name, len(column), column.null_count]
        if pa.types.is_fixed_size_list(column.type):  # its items' name differs once it is read
            facts.append(column.type.list_size)
            values = values.flatten()
        facts += [str(values.type), values.null_count]
        if pa.types.is_string(values.type):
            facts.append(values.to_pylist())
            values = pa.array([], pa.int8())
        digest.update(json.dumps(facts).encode() + b"\0")
        digest.update(values.to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()


def read_scores(folder: Path) -> ScoreTable:
    """All scores in a folder, by position in each round of scoring; every row in it is known.

    Raises RunError when there are none, a part is broken, or parts come from different runs.
    """
    return _scores(_read_folder(folder))


def read_features(folder: Path) -> Any:
    """Pooled features float32 [n, D] of a folder's rows, in the order of `read_scores`.

    Raises RunError as that does, and when there are no features.
    """
    return read_with_features(folder)[1]


def read_with_features(folder: Path) -> tuple[ScoreTable, Any]:
    """What `read_scores` and `read_features` give, at once."""
    if not has_features(folder):
        raise RunError(f"no features in {folder}; score with features on")
    table = _read_folder(folder)
    return _scores(table), as_numpy(table["features"])


def _read_folder(folder: Path) -> Any:
    """The parts of a folder as one table."""
    paths = sorted(Path(folder).glob("part-*.parquet"))
    if not paths:
        raise RunError(f"no scores in {folder}; score first, or give the run's own folder")
    tables = [_read_whole(path) for path in paths]
    for path, table in zip(paths, tables, strict=True):
        if table is None:
            raise RunError(f"{path} is damaged: run the command that made it again")
        if table.schema.metadata[FINGERPRINT] != tables[0].schema.metadata[FINGERPRINT]:
            raise RunError(
                f"{path} and {paths[0]} come from different runs; delete {folder} and score again"
            )
    return pa.concat_tables(tables)


def _scores(table: Any) -> ScoreTable:
    return make_table(
        ids=Ids.from_arrow(table["id"].chunks),
        columns={n: table[n].to_numpy() for n in score_columns(table)},
        known=np.ones(table.num_rows, dtype=bool),
    )


def has_features(folder: Path) -> bool:
    """Whether the parts in a folder hold features; False where there is no readable part."""
    path = next(iter(sorted(Path(folder).glob("part-*.parquet"))), None)
    try:
        return path is not None and "features" in pq.read_schema(path).names
    except Exception:  # see `_read_whole`
        return False


def score_columns(table: Any) -> list[str]:
    """Names of a part's float64 columns."""
    return [f.name for f in table.schema if f.name not in FIXED and f.type == pa.float64()]


def make_table(*, ids: Sequence[str], columns: Mapping[str, Any], known: Any) -> ScoreTable:
    """A ScoreTable that cannot be changed."""
    return ScoreTable(
        ids=ids,
        columns=MappingProxyType({name: read_only(values) for name, values in columns.items()}),
        known=read_only(known),
    )
