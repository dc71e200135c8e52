"""Scores on disk: Parquet parts that are whole or absent and say what they were made from."""

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
from staff.types import Ints, ScoreTable, read_only

FINGERPRINT = b"staff.fingerprint"
FIXED = ("id", "row", "position")  # the columns that are no scores
LAYOUT = "staff scores 1"


class ShardCache(Protocol):
    """Parts that serve several folders of scores; `staff.runs.cache.Cache` is one."""

    def fetch_shard(self, key: str, out: Path) -> bool:
        """Copy a part to `out`; whether there was one."""

    def keep_shard(self, key: str, shard: Path) -> None:
        """Take a copy of a finished part."""


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
    for name, values in columns.items():
        if values.ndim == 1:
            arrays[name] = pa.array(values, pa.float64())
        else:
            flat = pa.array(values.ravel(), pa.float32())
            arrays[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    table = pa.table(arrays).replace_schema_metadata({FINGERPRINT: fingerprint})
    with replacing(path) as part:
        pq.write_table(table, part, write_page_checksum=True)


def read_part(path: Path, *, fingerprint: bytes, positions: Ints) -> tuple[Any, str]:
    """The part's table if it is whole, made from the same and of these positions.

    Else None, and what is wrong with it; of one that is not there nothing is.
    """
    if not path.exists():
        return None, ""
    try:
        if (pq.read_schema(path).metadata or {}).get(FINGERPRINT) != fingerprint:
            return None, "was made from other data, models or settings"
        table = pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError):
        return None, "is damaged"
    if not np.array_equal(table["position"].to_numpy(), positions):
        return None, "is of other rows"
    return table, ""


def read_scores(folder: Path) -> ScoreTable:
    """All scores in a folder, in order of position; every row in it is known.

    Raises RunError when there are none, a part is broken, or parts come from different runs.
    """
    paths = sorted(Path(folder).glob("part-*.parquet"))
    if not paths:
        raise RunError(f"no scores in {folder}; score first, or give the run's own folder")
    try:
        tables = [pq.read_table(path, page_checksum_verification=True) for path in paths]
    except (pa.ArrowException, OSError) as error:
        raise RunError(f"the scores in {folder} are broken ({error}); delete them") from error
    made_from = [(table.schema.metadata or {}).get(FINGERPRINT) for table in tables]
    for path, facts in zip(paths, made_from, strict=True):
        if facts is None or facts != made_from[0]:
            raise RunError(
                f"{path} and {paths[0]} come from different runs; delete {folder} and score again"
            )
    table = pa.concat_tables(tables)
    facts = json.loads(made_from[0] or b"{}")
    return make_table(
        ids=tuple(table["id"].to_pylist()),
        columns={n: table[n].to_numpy() for n in score_columns(table)},
        known=np.ones(table.num_rows, dtype=bool),
        fingerprint=facts,
    )


def has_features(folder: Path) -> bool:
    """Whether the parts in a folder hold features; False where there is no readable part."""
    path = next(iter(sorted(Path(folder).glob("part-*.parquet"))), None)
    try:
        return path is not None and "features" in pq.read_schema(path).names
    except (pa.ArrowException, OSError):
        return False


def read_features(folder: Path) -> Any:
    """Pooled features float32 [n, D] of a folder's rows, in the order of `read_scores`."""
    paths = sorted(Path(folder).glob("part-*.parquet"))
    if not has_features(folder):
        raise RunError(f"no features in {folder}; score with features on")
    parts = [pq.read_table(path, columns=["features"])["features"] for path in paths]
    chunks = [chunk for part in parts for chunk in part.chunks]
    return np.concatenate(
        [c.flatten().to_numpy().reshape(len(c), c.type.list_size) for c in chunks]
    )


def score_columns(table: Any) -> list[str]:
    """Names of a part's float64 columns."""
    return [f.name for f in table.schema if f.name not in FIXED and f.type == pa.float64()]


def make_table(
    *,
    ids: tuple[str, ...],
    columns: Mapping[str, Any],
    known: Any,
    fingerprint: Mapping[str, Any],
) -> ScoreTable:
    """A ScoreTable whose provenance comes from the fingerprint's keys of the same names."""
    return ScoreTable(
        ids=ids,
        columns=MappingProxyType({name: read_only(values) for name, values in columns.items()}),
        known=read_only(known),
        scorer=str(fingerprint.get("scorer", "")),
        model_hash=str(fingerprint.get("model_hash", "")),
        data_hash=str(fingerprint.get("data_hash", "")),
    )
