"""The rows of an export as one Parquet file.

Not JSON Lines: the loaders of all trainers guess types there, and a column of answers that look
like dates comes back as timestamps (PyArrow), which LLaMA-Factory then leaves out without a word.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from staff.data.tables import BATCH_ROWS
from staff.data.writers import json_text, replacing

OBJECT = "chat_template_kwargs"  # a column of objects, each of its own fields
TURNS = ("messages", "prompt", "completion")  # columns that may hold lists of messages


def write_table(
    path: Path,
    rows: Iterable[Mapping[str, Any]],
    types: Mapping[str, str],
    *,
    chat: bool,
    rich: bool = False,
) -> None:
    """Write rows atomically, a batch at a time.

    types: of the user's own columns, as `staff.exports.columns` names them; the others are texts,
    or with `chat` lists of messages. rich: which have more than role and content, and are JSON as
    `datasets` stores it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    message = pa.struct([("role", text), ("content", text)])
    plain = {"string": text, "json": text, "bool": pa.bool_()}
    plain |= {"int64": pa.int64(), "float64": pa.float64()}

    def type_of(name: str, json: Any) -> Any:
        if name in types:
            return plain[types[name]]
        if chat and name == OBJECT:
            return json
        return pa.list_(json if rich else message) if chat and name in TURNS else text

    def spelt(name: str, value: Any) -> Any:
        if not chat or name in types:
            return value
        if name == OBJECT:
            return json_text(value)
        return list(map(json_text, value)) if rich and name in TURNS else value

    with replacing(path) as part:
        writer = None
        try:
            for batch in _batches(rows):
                if writer is None:
                    given = pa.schema([(name, type_of(name, text)) for name in batch[0]])
                    schema = pa.schema([(name, type_of(name, pa.json_())) for name in batch[0]])
                    writer = pq.ParquetWriter(part, schema, compression="zstd")
                batch = [{name: spelt(name, v) for name, v in row.items()} for row in batch]
                writer.write_table(pa.Table.from_pylist(batch, schema=given).cast(schema))
        finally:
            if writer is not None:
                writer.close()


def _batches(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    remaining = map(dict, rows)
    while batch := list(islice(remaining, BATCH_ROWS)):
        yield batch
