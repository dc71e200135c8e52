"""Write rows to a file that is either complete or absent."""

import base64
import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import date, time, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import UUID

from staff.data.raw import RawRecord
from staff.data.streams import is_utf8
from staff.data.tables import BATCH_ROWS
from staff.errors import (
    ConfigError,
    DataError,
    DiskFullError,
    StaffError,
    is_disk_full,
    unknown_name,
)

UMASK = Lock()  # of two threads that read it at once one would set what the other has, 0


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; on success it is synced and renamed to `path`.

    On any failure nothing is left. Raises `DiskFullError` when there is no room and
    `StaffError` when the system refuses otherwise.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        part = Path(name)
        try:
            part.chmod(0o666 & ~umask())  # mkstemp hides its file from everyone else
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except StaffError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise DiskFullError(path) from error
        if isinstance(error, OSError):
            raise StaffError(f"cannot write {path}: {error.strerror or error}") from error
        raise


def umask() -> int:
    """What this process keeps from others of the files it makes."""
    with UMASK:
        mask = os.umask(0)  # it can be read only by setting it
        os.umask(mask)
    return mask


def json_text(value: Any) -> str:
    """The value as JSON on one line; text stays readable wherever UTF-8 can hold it."""
    text = json.dumps(value, ensure_ascii=False, default=_plain)
    return text if is_utf8(text) else json.dumps(value, default=_plain)


def _plain(value: object) -> Any:
    """What Parquet and Arrow hold and JSON does not, as text."""
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, Decimal | timedelta | UUID):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise DataError(
        f"a column holds a {type(value).__name__}, which JSON cannot represent. Leave it out."
    )


def json_line(row: RawRecord) -> str:
    """The row as one line of JSON: the line it was read from, unchanged, where it had one."""
    return row.raw if row.raw is not None else json_text(row.record)


def write_records(path: Path, records: Iterable[RawRecord], *, format: str = "jsonl") -> int:
    """Write rows as jsonl, json, csv or parquet; return how many.

    Rows that came from lines of JSON are written to JSONL byte for byte (the last line gets its
    line feed). Other values keep their meaning; what JSON cannot hold becomes text.
    Raises `ConfigError` for an unknown format, `DataError` for rows whose columns differ
    too much for a table; what `replacing` raises when the disk refuses.
    """
    if format not in WRITERS:
        raise ConfigError(unknown_name("format", format, WRITERS))
    with replacing(path) as part:
        return WRITERS[format](part, records)


def _write_jsonl(part: Path, records: Iterable[RawRecord]) -> int:
    count = 0
    with part.open("w", encoding="utf-8", newline="") as file:
        for row in records:
            file.write(json_line(row) + "\n")
            count += 1
    return count


def _write_json(part: Path, records: Iterable[RawRecord]) -> int:
    count = 0
    with part.open("w", encoding="utf-8", newline="") as file:
        file.write("[")
        for count, row in enumerate(records, start=1):
            file.write((",\n" if count > 1 else "\n") + json_line(row).strip())
        file.write("\n]\n")
    return count


def _write_csv(part: Path, records: Iterable[RawRecord]) -> int:
    count, columns = 0, dict[str, None]()  # looked up for every value of every row
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        # Before Python 3.13 a carriage return alone is not quoted, and splits the row when read.
        quoting = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)

        def write(cells: list[str]) -> None:
            (quoting if any("\r" in cell for cell in cells) else writer).writerow(cells)

        for count, row in enumerate(records, start=1):
            record = row.record or {}
            if count == 1:
                columns = dict.fromkeys(record)
                if strange := [name for name in columns if not is_utf8(name)]:
                    raise DataError(
                        f"the column {strange[0]!r} has a name that is not text, which does not "
                        "fit a CSV file. Write them as jsonl."
                    )
                write(list(columns))
            if extra := [name for name in record if name not in columns]:
                raise DataError(
                    f"{row.place} has a column {extra[0]!r} that the first row does not have: such "
                    "rows do not fit a CSV file. Write them as jsonl."
                )
            write([_cell(record.get(name)) for name in columns])
    return count


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json_text(value)
    return text if is_utf8(text) else json_text(value)


def _write_parquet(part: Path, records: Iterable[RawRecord]) -> int:
    """Spills batches beside the file first: the types are known only at the last row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = iter(records)
    schemas: list[Any] = []
    count = 0
    with tempfile.TemporaryDirectory(dir=part.parent, prefix=part.stem, suffix=".part") as folder:
        try:
            while batch := [row.record or {} for row in islice(rows, BATCH_ROWS)]:
                names = {name: None for record in batch for name in record}
                table = pa.Table.from_pylist([names | record for record in batch])
                pq.write_table(table, Path(folder) / f"{len(schemas)}.parquet")
                schemas.append(table.schema)
                count += len(batch)
            schema = pa.unify_schemas([pa.schema([]), *schemas], promote_options="permissive")
            with pq.ParquetWriter(part, schema) as writer:
                for i in range(len(schemas)):
                    table = pq.read_table(Path(folder) / f"{i}.parquet")
                    columns = [
                        table[field.name].cast(field.type)
                        if field.name in table.column_names
                        else pa.nulls(table.num_rows, field.type)
                        for field in schema
                    ]
                    writer.write_table(pa.table(columns, schema=schema))
        except (pa.ArrowException, UnicodeEncodeError, OverflowError, OSError) as error:
            why = str(error)
            if isinstance(error, OSError):
                if error.errno is not None or is_disk_full(error):  # the system's, not Arrow's
                    raise
                why = why.rpartition(f"{folder}/")[2].partition("': ")[2] or why  # no part of ours
            raise DataError(
                f"these rows do not fit a Parquet file ({why}). Write them as jsonl."
            ) from error
    return count


WRITERS: dict[str, Callable[[Path, Iterable[RawRecord]], int]] = {
    "jsonl": _write_jsonl,
    "json": _write_json,
    "csv": _write_csv,
    "parquet": _write_parquet,
}
