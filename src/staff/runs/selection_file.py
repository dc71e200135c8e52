"""selection.parquet: every row of the data, its scores, its region, and what became of it."""

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from staff.errors import RunError
from staff.ids import Ids
from staff.runs.store import write_atomic
from staff.types import REASONS, Bools, Floats, Ints, Selection
from staff.words import counted

SIGNALS = ("loss", "entropy", "el2n", "response_length", "unconditioned_loss")
STORED = (  # what a selection is made again from, beside the ids
    *("row", "source", "tokens", "score_small", "interpolated", "score_target", "score_untuned"),
    *SIGNALS,
)
OPTIONAL = ("source", "interpolated", "score_untuned")
TYPES = {
    **{name: pa.string() for name in ("id", "source")},
    **{name: pa.int64() for name in ("row", "tokens")},
    **{name: pa.float64() for name in ("score_small", *SIGNALS, "score_target", "score_untuned")},
    **{name: pa.bool_() for name in ("interpolated", "verified")},
    "region": pa.int32(),
}
GROUP = 65_536  # rows converted at a time


def write_selection(
    path: str | Path,
    *,
    ids: Sequence[str],  # [n]
    rows: Ints,  # [n], row in the input file
    scores: Mapping[str, Floats],  # float64 [n] each: "effort" and the signals
    selections: Mapping[str, Selection],
    score_target: Floats | None = None,  # [n], NaN = not scored on the target
    score_untuned: Floats | None = None,  # [n], of the small model; the same
    interpolated: Bools | None = None,  # [n], `score_small` was told from other rows'
    tokens: Ints | None = None,  # [n]
    regions: Ints | None = None,  # [n], -1 = cut, -2 = null: no part of the selection
    verified: Bools | None = None,  # [n]
    sources: Sequence[str | None] | None = None,  # [n]
) -> None:
    """Write one row per usable sample, atomically; schema in docs/formats.md.

    scores: the small model's columns by name, ``effort`` becoming ``score_small``.
    selections: coreset name -> what was chosen. A column that is not known (a random
    selection has no scores) is there and null, but `source`, `score_untuned` and `interpolated`
    are only there if they are given. NaN is written as null.
    """
    n = len(ids)
    verified = np.zeros(n, bool) if verified is None else verified
    chosen = {name: _mask(selection.rows, n) for name, selection in selections.items()}

    def table(at: slice) -> pa.Table:
        columns: dict[str, pa.Array] = {
            "id": pa.array(ids[at], pa.string()),
            "row": pa.array(rows[at], pa.int64()),
            **({} if sources is None else {"source": pa.array(sources[at], pa.string())}),
            "score_small": _floats(scores.get("effort"), at, n),
            **({} if interpolated is None else {"interpolated": pa.array(interpolated[at])}),
            **{name: _floats(scores.get(name), at, n) for name in SIGNALS},
            "score_target": _floats(score_target, at, n),
            **({} if score_untuned is None else {"score_untuned": _floats(score_untuned, at, n)}),
            "tokens": pa.nulls(len(rows[at]), pa.int64())
            if tokens is None
            else pa.array(tokens[at], pa.int64()),
            "region": pa.nulls(len(rows[at]), pa.int32())
            if regions is None
            else pa.array(regions[at].astype(np.int32), mask=regions[at] < -1),
            "verified": pa.array(verified[at]),
        }
        for name, selection in selections.items():
            columns[f"selected@{name}"] = pa.array(chosen[name][at])
            codes = pa.array(selection.reason[at].astype(np.int8))
            reasons = pa.DictionaryArray.from_arrays(codes, list(REASONS))
            columns[f"reason@{name}"] = reasons.cast(pa.string())
        return pa.table(columns)

    def write(file: BinaryIO) -> None:
        schema = table(slice(0, 0)).schema
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for start in range(0, n, GROUP):
                writer.write_table(table(slice(start, start + GROUP)))

    write_atomic(path, write)


def read_selection(path: str | Path) -> dict[str, Any]:
    """Columns of selection.parquet by name: NumPy arrays [n]; ids and reasons as object arrays.

    Null numbers come back as NaN. Raises `RunError` when the file is missing or broken.
    """
    with _opened(path) as file:
        table = file.read()
    return {name: table.column(name).to_numpy() for name in table.column_names}


def read_numbers(path: str | Path, columns: Container[str] | None = None) -> dict[str, Any]:
    """All columns but the ids and the reasons, which are text: a few bytes a row in memory.

    columns: of those that have a name of their own (not one of a coreset), which to read. Of the
    sources there is one text each, however many rows it has.
    """
    return dict(_lean(path, columns))


def read_stored(path: str | Path) -> dict[str, Any]:
    """What `read_numbers` gives, and the ids (`Ids`), and in "rejected", bool [n], which rows
    had no finite score and so could not be chosen for some coreset."""
    with _opened(path) as file:
        ids = Ids.joined([Ids.from_arrow(piece.chunks) for piece in _pieces(file, "id")])
        rejected = np.zeros(len(ids), np.bool_)
        for name in file.schema_arrow.names:
            if name.startswith("reason@"):
                found = [pc.equal(piece, "rejected").to_numpy() for piece in _pieces(file, name)]
                rejected |= np.concatenate(found)
    return {"id": ids, "rejected": rejected, **read_numbers(path, STORED)}


def read_rows(path: str | Path, at: Ints) -> list[dict[str, Any]]:
    """Some rows of selection.parquet, whole, in the order of `at`, their positions in it."""
    found: dict[int, dict[str, Any]] = {}
    start = 0
    with _opened(path) as file:
        for group in range(file.num_row_groups):  # a million ids at once are not a few bytes a row
            end = start + file.metadata.row_group(group).num_rows
            here = at[(at >= start) & (at < end)]
            if len(here):
                rows = file.read_row_group(group).take(here - start).to_pylist()
                found |= zip(here.tolist(), rows, strict=True)
            start = end
    return [found[position] for position in at.tolist()]


def read_dropped(path: str | Path, name: str) -> Bools:
    """Whether the method dropped the row, bool [n], also where it filled up the coreset.

    name: of the coreset, in a run without regions, where only dropped rows are a top-up.
    """
    with _opened(path) as file:
        reasons = file.read(columns=[f"reason@{name}"])[f"reason@{name}"]
    found: Bools = pc.is_in(reasons, pa.array(["cut", "top-up"])).to_numpy()
    return found


def check_regions(of_row: Ints, count: int) -> None:
    """Raise `RunError` if a row is in a region that the manifest, which has `count`, has not."""
    if len(of_row) and int(of_row.max()) >= count:
        raise RunError(
            f"manifest.json has {counted(count, 'region')}, but selection.parquet has a row in "
            f"region {int(of_row.max())}: run staff select again with the same settings"
        )


def coreset_columns(columns: Mapping[str, Any]) -> list[str]:
    """Names of the coresets in a selection file, in the order asked for."""
    return [name.partition("@")[2] for name in columns if name.startswith("selected@")]


@contextmanager
def _opened(path: str | Path) -> Iterator[pq.ParquetFile]:
    """The file, with the columns that `write_selection` writes.

    Raises `RunError` for one that is missing or broken, or has others: a run may be somebody
    else's, its manifest too.
    """
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(file.schema_arrow)
            yield file
    except FileNotFoundError:
        raise RunError(
            f"{path} is missing: put it back, or run staff select again with the same settings"
        ) from None
    except (pa.ArrowInvalid, UnicodeDecodeError):
        raise RunError(
            f"{path} is damaged: run staff select again with the same settings"
        ) from None


def _check_columns(schema: pa.Schema) -> None:
    """Raise `ArrowInvalid` for a column that is missing, repeated, or of another type."""
    types = dict(zip(schema.names, schema.types, strict=True))
    wanted = {name: kind for name, kind in TYPES.items() if name in types or name not in OPTIONAL}
    for name in coreset_columns(types):
        wanted |= {f"selected@{name}": pa.bool_(), f"reason@{name}": pa.string()}
    if len(types) < len(schema.names) or any(types.get(n) != kind for n, kind in wanted.items()):
        raise pa.ArrowInvalid("other columns than those of a selection")


def _lean(path: str | Path, columns: Container[str] | None) -> Iterator[tuple[str, Any]]:
    """Name and NumPy array of one column after another: the file is never in memory whole."""
    texts: dict[str | None, str | None] = {}  # one text a source, however many rows it has
    with _opened(path) as file:
        for name in file.schema_arrow.names:
            of_coreset = name.startswith("selected@")
            if name == "id" or name.startswith("reason@"):
                continue
            if columns is not None and not of_coreset and name not in columns:
                continue
            yield name, np.concatenate([_as_numpy(piece, texts) for piece in _pieces(file, name)])


def _pieces(file: pq.ParquetFile, name: str) -> Iterator[pa.ChunkedArray]:
    """One column, a row group at a time; Arrow keeps the memory that it has once taken."""
    if not file.num_row_groups:  # no rows
        yield file.schema_arrow.empty_table()[name]
    for group in range(file.num_row_groups):
        yield file.read_row_group(group, columns=[name], use_threads=False)[name]


def _as_numpy(piece: pa.ChunkedArray, texts: dict[str | None, str | None]) -> Any:
    """Numbers as they are; texts as objects, those that are equal being one in `texts`."""
    if not pa.types.is_string(piece.type):
        return piece.to_numpy()
    coded = piece.combine_chunks().dictionary_encode()
    these = [texts.setdefault(text, text) for text in coded.dictionary.to_pylist()]
    at = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return np.array([*these, None], object)[at]


def _mask(rows: Ints, n: int) -> Bools:
    mask = np.zeros(n, bool)
    mask[rows] = True
    return mask


def _floats(values: Floats | None, at: slice, n: int) -> pa.Array:
    if values is None:
        return pa.nulls(len(range(n)[at]), pa.float64())
    return pa.array(np.asarray(values[at], np.float64), from_pandas=True)  # NaN -> null
