"""Tokenised samples on disk: an Arrow stream, read in parts and never as a whole."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from staff.data.writers import replacing
from staff.errors import RunError
from staff.hashing import hash_file
from staff.ids import Ids
from staff.types import IGNORE, Ints, TokenisedExample, read_only

LAYOUT = "staff tokens 1"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("row", pa.int64()),  # position in the input, bad rows counted
        ("input_ids", pa.list_(pa.int32())),
        ("loss_mask", pa.list_(pa.bool_())),
        ("length", pa.int32()),
        ("response_length", pa.int32()),  # tokens in the loss
        ("truncated", pa.bool_()),
    ],
    metadata={"layout": LAYOUT},
)

RECENT = 16  # record batches in memory: the rows of a shard lie in a few
LIGHT = {  # what stays in memory
    "row": np.int64,
    "length": np.int32,
    "response_length": np.int32,
    "truncated": np.bool_,
}


class TokenWriter:
    """Appends batches of samples to an open store."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self.tokens = 0

    def append(self, rows: Sequence[int], examples: Sequence[TokenisedExample]) -> None:
        """Write samples and their positions in the input as one record batch."""
        if not examples:
            return
        lengths = [len(example.input_ids) for example in examples]
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        ids = np.concatenate([example.input_ids for example in examples]).astype(np.int32)
        mask = np.concatenate([example.labels for example in examples]) != IGNORE
        in_loss = np.add.reduceat(mask, offsets.to_numpy()[:-1], dtype=np.int32)
        columns = [
            pa.array([example.id for example in examples], pa.string()),
            pa.array(rows, pa.int64()),
            pa.ListArray.from_arrays(offsets, pa.array(ids)),
            pa.ListArray.from_arrays(offsets, pa.array(mask)),
            pa.array(lengths, pa.int32()),
            pa.array(in_loss, pa.int32()),
            pa.array([example.truncated for example in examples], pa.bool_()),
        ]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
        self.tokens += int(sum(lengths))


class TokenStore:
    """n samples in the order of the input.

    ids: the samples' ids. rows int64 [n]: their positions in the input. lengths int32 [n]:
    tokens. response_lengths int32 [n]: tokens in the loss. truncated bool [n].
    Only these stay in memory; tokens are read from the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = pa.OSFile(str(path))
            columns, starts, self._places, self._schema = _columns(self._file, LIGHT)
        except (pa.ArrowException, OSError) as error:
            raise RunError(
                f"cannot read the tokens in {path} ({error}). Delete it; it will be made again."
            ) from error
        if (self._schema.metadata or {}).get(b"layout") != LAYOUT.encode():
            raise RunError(
                f"{path} was not written by this version. Delete it; it will be made again."
            )
        self._starts = starts
        self._recent: OrderedDict[int, Any] = OrderedDict()  # record batches by number
        self.rows: Ints = columns["row"]
        self.lengths = columns["length"]
        self.response_lengths = columns["response_length"]
        self.truncated = columns["truncated"]

    @classmethod
    def open(cls, path: Path) -> "TokenStore":
        """Open a finished store. Raises `RunError` when it is missing, broken or foreign."""
        return cls(path)

    @staticmethod
    @contextmanager
    def write(path: Path) -> Iterator[TokenWriter]:
        """Give a writer; the store appears at `path` when the block ends without an error."""
        with replacing(path) as part, pa.ipc.new_stream(str(part), SCHEMA) as writer:
            yield TokenWriter(writer)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def ids(self) -> Ids:
        """The samples' ids, in order."""
        return Ids.from_arrow(self._batch(n).column("id") for n in range(len(self._places)))

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (hex) of the file: data, template, tokenizer and maximal length in one."""
        return hash_file(self.path)

    def get(self, positions: Iterable[int]) -> list[TokenisedExample]:
        """The samples at these positions of the store (0 … n-1), in the order given."""
        return [self._example(int(position)) for position in positions]

    def release(self) -> None:
        """Let go of the record batches that were read last."""
        self._recent.clear()

    def _batch(self, number: int) -> Any:
        """A record batch, from the file if it is none of the last `RECENT`."""
        if number in self._recent:
            self._recent.move_to_end(number)
            return self._recent[number]
        self._file.seek(self._places[number])
        batch = pa.ipc.read_record_batch(pa.ipc.read_message(self._file), self._schema)
        self._recent[number] = batch
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        return batch

    def _example(self, position: int) -> TokenisedExample:
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} in a store of {len(self)} samples")
        number = int(np.searchsorted(self._starts, position, side="right")) - 1
        batch, at = self._batch(number), position - int(self._starts[number])
        ids = batch.column("input_ids")[at].values.to_numpy().astype(np.int64)
        mask = batch.column("loss_mask")[at].values.to_numpy(zero_copy_only=False)
        return TokenisedExample(
            batch.column("id")[at].as_py(),
            read_only(ids),
            read_only(np.where(mask, ids, IGNORE)),
            bool(self.truncated[position]),
        )


def _columns(file: Any, dtypes: Mapping[str, Any]) -> tuple[dict[str, Any], Ints, list[int], Any]:
    """Columns [n] of a store by name; the position in it at which each record batch starts, and
    at which the last ends; where in the file each begins; the schema.

    Read, not mapped: pages of a mapped file count as this process's memory, and the first page of
    every record batch, with its neighbours, is near the whole file.
    """
    parts: dict[str, list[Any]] = {name: [np.empty(0, dtype)] for name, dtype in dtypes.items()}
    sizes, places = [0], []
    with pa.ipc.open_stream(file) as reader:
        ours = set(dtypes) <= set(reader.schema.names)  # if not, its layout says so
        while ours:
            place = file.tell()
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                break
            places.append(place)
            sizes.append(batch.num_rows)
            for name, column in parts.items():
                values = batch.column(name).to_numpy(zero_copy_only=False)
                column.append(values.astype(dtypes[name]))  # a copy: the batch goes
    columns = {name: read_only(np.concatenate(part)) for name, part in parts.items()}
    return columns, np.cumsum(sizes), places, reader.schema
