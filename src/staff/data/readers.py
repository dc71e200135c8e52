"""Stream rows from JSON, JSON Lines, CSV and TSV; one table of readers for every kind of file."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from staff.data.json_array import items, once
from staff.data.raw import RawRecord, refuse_repeated
from staff.data.streams import (
    BOM,
    ROW_LIMIT,
    is_utf8,
    lines_of,
    open_bytes,
    open_text,
    refuse_utf16,
    shown,
)
from staff.data.tables import read_arrow, read_parquet
from staff.errors import DataError
from staff.words import counted

DECODER = json.JSONDecoder(object_pairs_hook=once)  # json.loads would make one for every line
Reader = Callable[[Path], Iterator[RawRecord]]
MARK = "\ufeff"  # which only json.loads refuses with a reason


def read_jsonl(path: Path) -> Iterator[RawRecord]:
    """Rows of a file with one JSON object a line. Blank lines are no rows.

    Lines end at a line feed only: U+2028 and its kind are ordinary text inside JSON strings.
    """
    row = 0
    with open_bytes(path) as stream:
        for number, line in enumerate(lines_of(stream, path), start=1):
            if number == 1:
                refuse_utf16(line, path)
                line = line.removeprefix(BOM)
            line = line.removesuffix(b"\n")
            if line.strip():
                yield parse_line(line, row=row, line=number)
                row += 1


def parse_line(body: bytes, *, row: int, line: int) -> RawRecord:
    """One line of JSON; a fault becomes the record's `problem`."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        problem = f"invalid UTF-8 at byte {error.start + 1} of the line"
        return RawRecord(row, line, None, body.decode("utf-8", "replace"), problem)
    try:
        value = json.loads(text) if text.startswith(MARK) else DECODER.decode(text)
    except json.JSONDecodeError as error:
        # Some of json's own messages end in "at", as if the place were to follow.
        problem = f"broken JSON: {error.msg.removesuffix(' at')} at column {error.colno}"
    except RecursionError:
        problem = "lists and objects are nested too deeply"
    except ValueError as error:
        problem = f"broken JSON: {error}"
    else:
        if isinstance(value, dict):
            return RawRecord(row, line, value, text)
        problem = "not a JSON object"
    return RawRecord(row, line, None, text, problem)


def read_json(path: Path) -> Iterator[RawRecord]:
    """Rows of a file that is one JSON array, parsed a piece at a time."""
    with open_text(path) as text:
        for row, (line, value, raw) in enumerate(items(text, name=str(path))):
            if not is_utf8(raw):
                yield RawRecord(row, line, None, shown(raw), "invalid UTF-8")
            elif not isinstance(value, dict):
                yield RawRecord(row, line, None, raw, "not a JSON object")
            else:
                yield RawRecord(row, line, value)


def read_csv(path: Path, *, delimiter: str = ",") -> Iterator[RawRecord]:
    """Rows of a CSV or TSV file with a header line; every value is a string."""
    # The default of 128 KiB a field refuses long documents. It holds for the whole process: what
    # the caller reads may need more.
    csv.field_size_limit(max(ROW_LIMIT, csv.field_size_limit()))
    with open_text(path) as text:
        lines: list[str] = []  # of the row that is read

        def kept() -> Iterator[str]:
            for line in lines_of(text, path):
                lines.append(line)
                yield line

        reader = csv.reader(kept(), delimiter=delimiter, strict=True)
        header = _next_fields(reader, path)
        if isinstance(header, str):
            raise DataError(f"{path}, line 1: {header}. The first line must name the columns.")
        others = [c for c in "\t;|" if c != delimiter and header and c in header[0]]
        if header and len(header) == 1 and others:
            raise DataError(
                f"{path}, line 1: the columns are separated by {others[0]!r}, not by "
                f"{delimiter!r}. Save the file with commas as .csv, or with tabs as .tsv."
            )
        refuse_repeated(header or [], path)
        row = 0
        while header is not None:
            line = reader.line_num + 1
            lines.clear()
            fields = _next_fields(reader, path)
            if fields is None:
                return
            if not fields:  # a blank line
                continue
            record, raw, problem = None, None, None
            if isinstance(fields, str):
                raw, problem = shown("".join(lines).rstrip("\r\n")), fields
            elif not is_utf8(joined := delimiter.join(fields)):
                raw, problem = shown(joined), "invalid UTF-8"
            elif len(fields) != len(header):
                found = counted(len(fields), "field")
                raw, problem = joined, f"{found} where the header has {len(header)}"
            else:
                record = dict(zip(header, fields, strict=True))
            yield RawRecord(row, line, record, raw, problem)
            row += 1


def _next_fields(reader: Any, path: Path) -> list[str] | str | None:
    """The next fields; a text if the line is broken; None at the end."""
    line = reader.line_num + 1
    try:
        return next(reader, None)
    except csv.Error as error:
        if "unexpected end of data" in str(error):  # it swallowed every row that follows
            raise DataError(
                f"{path}, line {line}: a quotation mark opens here and never closes."
            ) from error
        return f"broken CSV: {error}"


READERS: dict[str, Reader] = {
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "tsv": lambda path: read_csv(path, delimiter="\t"),
    "parquet": read_parquet,
    "arrow": read_arrow,
}
