"""Stream rows from Parquet, Arrow and the Hugging Face Hub."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from staff.data.json_array import once
from staff.data.raw import RawRecord, refuse_repeated
from staff.data.streams import ROW_LIMIT
from staff.errors import DataError, DiskFullError, is_disk_full, nearest

BATCH_ROWS = 1024
# A column of a row group may be larger than that only if its packed size is not out of proportion.
CHUNK_BYTES, MOST_PACKED = 256 << 20, 100
VALUE_BYTES = 8  # of each place in a list, at least: it becomes a Python list
MARK, END = b"\xff" * 4, b"\xff" * 4 + bytes(4)  # of a message in an Arrow stream; behind the last
COMMIT = re.compile(r"[0-9a-f]{40}")


def read_parquet(path: Path) -> Iterator[RawRecord]:
    """Rows of a Parquet file."""
    import pyarrow.parquet as pq

    with _arrow_faults(path), pq.ParquetFile(path, pre_buffer=False) as file:
        refuse_repeated(file.schema_arrow.names, path)
        yield from _rows(file.iter_batches(batch_size=_batch_rows(file.metadata, path)))


def _batch_rows(metadata: Any, path: Path) -> int:
    """How many rows of a Parquet file to unpack at a time; refuses what would fill the memory.

    By what the file says of itself: PyArrow believes it, too. Sizes leave out what takes no
    place in the file but does in memory: nulls in lists, and one value at many places.
    """
    widest = 1.0  # bytes a row, on average
    largest = 0.0  # bytes a row, if all its values are the largest of their dictionaries
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        rows = max(1, group.num_rows)
        columns = [group.column(i) for i in range(group.num_columns)]
        widest = max(widest, group.total_byte_size / rows)
        repeated = 0.0
        for index, column in enumerate(columns):
            size, packed = column.total_uncompressed_size, column.total_compressed_size
            in_lists = max(0, column.num_values - group.num_rows) * VALUE_BYTES
            size = max(size, in_lists)
            if size > CHUNK_BYTES and size > MOST_PACKED * packed:
                raise DataError(
                    f"{path}: column {column.path_in_schema!r} unpacks from {packed:,} bytes to "
                    f"{size:,}. If that is intended, write it again in smaller row groups."
                )
            widest = max(widest, in_lists / rows)
            each = column.num_values / rows
            if min(BATCH_ROWS, rows) * each * size > ROW_LIMIT:  # it may come to more than that
                repeated += each * _largest_value(metadata.schema.column(index), path, number)
        largest = max(largest, repeated)
    if widest > ROW_LIMIT or largest > CHUNK_BYTES:
        raise DataError(f"{path}: a row is longer than {ROW_LIMIT >> 20} MiB on average. Split it.")
    return max(1, min(BATCH_ROWS, int(ROW_LIMIT / max(widest, largest))))


def _largest_value(column: Any, path: Path, group: int) -> int:
    """Bytes of the longest text in the dictionary of a column of a row group; 0 without one.

    Read as a dictionary: there each value lies once, however many rows have it.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if column.physical_type == "FIXED_LEN_BYTE_ARRAY":
        return int(column.length)
    if column.physical_type != "BYTE_ARRAY":
        return 0
    name = column.path
    with pq.ParquetFile(path, pre_buffer=False, read_dictionary=[name]) as file:
        for batch in file.iter_batches(batch_size=1, row_groups=[group], columns=[name]):
            values = batch.column(0)
            while not pa.types.is_dictionary(values.type):
                if values.type.num_fields == 0:  # Arrow reads some types as they are
                    return 0
                values = values.field(0) if pa.types.is_struct(values.type) else values.values
            if len(values.dictionary):  # none yet where the first rows hold no value
                return int(pc.max(pc.binary_length(values.dictionary)).as_py())
    return 0


def parquet_rows(path: Path) -> int:
    """How many rows a Parquet file has."""
    import pyarrow.parquet as pq

    with _arrow_faults(path):
        return pq.read_metadata(path).num_rows


def read_arrow(path: Path) -> Iterator[RawRecord]:
    """Rows of an Arrow IPC file or stream.

    Not memory-mapped: mapped pages would count against the process as it reads on.
    """
    return _rows(_arrow_batches(path))


def _arrow_batches(path: Path) -> Iterator[Any]:
    import pyarrow as pa

    with _arrow_faults(path), pa.OSFile(str(path), "rb") as file:
        start = file.read(6)
        is_stream = start != b"ARROW1"
        file.seek(0)
        with (pa.ipc.open_stream if is_stream else pa.ipc.open_file)(file) as reader:
            refuse_repeated(reader.schema.names, path)
            if is_stream:
                yield from reader
                _refuse_no_end(file, path, marked=start.startswith(MARK))
            else:
                yield from (reader.get_batch(i) for i in range(reader.num_record_batches))


def _refuse_no_end(file: Any, path: Path, *, marked: bool) -> None:
    """Raise `DataError` when an Arrow stream that was read ends early, or another is behind it.

    PyArrow takes both for a whole one. marked: older versions of Arrow, which write no marks, have
    no end that can be told from what is before it.
    """
    end = file.tell()
    if end < file.size():
        raise DataError(
            f"{path} goes on behind the end of its Arrow stream: such files cannot be joined end "
            "to end. Give a folder or a pattern of several."
        )
    file.seek(end - len(END))
    if marked and file.read(len(END)) != END:
        raise DataError(f"cannot read {path}: its end is missing. Fetch or write it again.")


@contextmanager
def _arrow_faults(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise DataError(f"cannot read {path}: {reason}. Fetch or write it again.") from error


def _rows(batches: Iterable[Any]) -> Iterator[RawRecord]:
    row = 0
    for batch in batches:
        spelt = {field.name: decode for field in batch.schema if (decode := _decoder(field.type))}
        for start in range(0, batch.num_rows, BATCH_ROWS):
            part = batch.slice(start, BATCH_ROWS)
            records: list[tuple[dict[str, Any] | None, str | None]]
            try:
                records = [(record, None) for record in _records(part, spelt)]
            except (ValueError, OverflowError, RecursionError):
                ones = (part.slice(i, 1) for i in range(part.num_rows))
                records = [_record_or_problem(one, spelt) for one in ones]
            for record, problem in records:
                yield RawRecord(row, None, record, None, problem)
                row += 1


Decoder = Callable[[Any], Any]


def _records(part: Any, spelt: Mapping[str, Decoder]) -> list[dict[str, Any]]:
    """Rows as Python values. spelt: what makes values of columns with JSON in them."""
    records: list[dict[str, Any]] = part.to_pylist()
    for record in records if spelt else ():
        record |= {name: decode(record[name]) for name, decode in spelt.items()}
    return records


def _decoder(kind: Any) -> Decoder | None:
    """What makes values of an Arrow type that has JSON in it, of any other None.

    `datasets` stores so what has no one type, as messages of which some call tools.
    """
    import pyarrow as pa

    if getattr(kind, "extension_name", "") == "arrow.json":
        return lambda text: None if text is None else json.loads(text, object_pairs_hook=once)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = _decoder(kind.value_type)
        return inner and (lambda values: None if values is None else list(map(inner, values)))
    if pa.types.is_struct(kind):
        within = {field.name: decode for field in kind if (decode := _decoder(field.type))}
        return (
            (lambda value: value and value | {n: f(value[n]) for n, f in within.items()})
            if within
            else None
        )
    return None


def _record_or_problem(
    one_row: Any, spelt: Mapping[str, Decoder]
) -> tuple[dict[str, Any] | None, str | None]:
    """A row, or why Python has no values for it: a year beyond 9999, a struct's field twice."""
    try:
        return _records(one_row, spelt)[0], None
    except UnicodeDecodeError:
        return None, "invalid UTF-8"
    except RecursionError:
        return None, "cannot be read: JSON that is nested too deeply"
    except (ValueError, OverflowError) as error:
        return None, f"cannot be read: {error}"


def read_hub(
    dataset: str, config: str | None, split: str, revision: str | None = None
) -> Iterator[RawRecord]:
    """Rows of a data set on the Hugging Face Hub.

    `datasets` downloads it once and keeps it: a run reads its data several times.
    revision: the commit; the newest by default.
    """
    with _hub_faults(dataset):
        tables = _hub_builder(dataset, config, revision).as_dataset(split=split)
        tables = tables.with_format("arrow")
        yield from _rows(
            batch for table in tables.iter(batch_size=BATCH_ROWS) for batch in table.to_batches()
        )


def hub_commit(dataset: str, config: str | None, revision: str | None = None) -> str | None:
    """The commit of what `read_hub` reads; None where `datasets` names none."""
    with _hub_faults(dataset):
        found = str(_hub_builder(dataset, config, revision).hash)
    return found if COMMIT.fullmatch(found) else None


@cache  # one revision a process, whatever is uploaded meanwhile
def _hub_builder(dataset: str, config: str | None, revision: str | None) -> Any:
    """The downloaded data set of one revision."""
    from datasets import load_dataset_builder

    builder = load_dataset_builder(dataset, config, revision=revision)
    if revision is not None and builder.hash != revision:  # offline, `datasets` takes the newest
        raise DataError(
            f"{dataset} is requested at revision {revision}, but what was downloaded earlier is "
            f"{builder.hash}: run it once with a connection to the Hub"
        )
    builder.download_and_prepare()
    return builder


@contextmanager
def _hub_faults(dataset: str) -> Iterator[None]:
    """Turn what `datasets` raises into a `DataError` of one line."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # its errors come from a dozen libraries and share no parent
        if is_disk_full(error):
            raise DiskFullError(getattr(error, "filename", None)) from error
        reason = next((line for line in str(error).splitlines() if line), type(error).__name__)
        near = nearest(Path(dataset))
        meant = f"Did you mean the local {near}? If not, check" if near else "Check"
        raise DataError(
            f"{dataset} is not a local file, and could not be downloaded from the Hugging Face "
            f"Hub: {reason}\n"
            f"{meant} the path, or the network and the name: owner/name, owner/name:config, "
            "owner/name@split, owner/name@commit (40 digits)."
        ) from error
