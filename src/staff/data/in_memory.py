"""Rows in memory, as a `datasets.Dataset`: saved as a file, since a run reads them again."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from staff.data.tables import BATCH_ROWS
from staff.errors import DataError, DiskFullError, RunError, is_disk_full
from staff.hashing import hash_file


def is_dataset(data: Any, *, name: str = "data") -> bool:
    """Whether this is a `datasets.Dataset`; imports nothing for the question.

    name: of the argument, for messages.

    Raises:
        DataError: it is rows in memory of another kind, with what to make of them.
    """
    library = sys.modules.get("datasets")
    if library is not None:
        if isinstance(data, library.Dataset):
            return True
        if isinstance(data, library.DatasetDict):
            splits = ", ".join(map(repr, data))
            first = next(iter(data), "train")
            raise DataError(f"the data set has the splits {splits}: give one of them, [{first!r}]")
        if isinstance(data, library.IterableDataset | library.IterableDatasetDict):
            raise DataError(
                "the data set is a stream, and a run reads its rows more than once: load it "
                "without streaming, or write it to a file"
            )
    if data is not None and not isinstance(data, str | Path):
        raise DataError(
            f"{name} is a {type(data).__name__}: give a path, a Hub id, or a datasets.Dataset "
            "(Dataset.from_list, Dataset.from_pandas)"
        )
    return False


def keep_rows(rows: Any, path: Path) -> bool:
    """Write a `Dataset`'s rows, in their order, to a Parquet file that runs can read.

    A file of the same rows is left as it is. Returns whether there was none.

    Raises:
        RunError: the file is there and holds something else.
        DataError: there are no rows, or Parquet cannot hold them.
    """
    import pyarrow as pa

    if not len(rows):
        raise DataError("the data set has no rows")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".part") as scratch,
            without_bars(),
        ):
            part = Path(scratch) / path.name
            with part.open("wb") as file:
                rows.to_parquet(file)
            if not path.exists():
                part.replace(path)
                return True
            if not path.is_file() or not _same_rows(path, part):
                raise RunError(
                    f"{path} contains other rows than the data set: choose another folder with "
                    "out, or remove it"
                )
    except (pa.ArrowException, UnicodeEncodeError) as error:
        raise DataError(f"the data set does not fit a Parquet file ({error})") from error
    except OSError as error:
        if is_disk_full(error):
            raise DiskFullError(path) from error
        raise
    return False


def _same_rows(one: Path, other: Path) -> bool:
    """Whether two Parquet files hold the same rows.

    Their bytes may differ all the same: a view of a `Dataset` (filtered, shuffled) is written in
    other pages than its copy, and so are rows by another version of the library.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if hash_file(one) == hash_file(other):
        return True
    try:
        with pq.ParquetFile(one) as first, pq.ParquetFile(other) as second:
            if first.metadata.num_rows != second.metadata.num_rows:
                return False
            pairs = zip(_values(first), _values(second), strict=True)
            return all(a == b for a, b in pairs)
    except (pa.ArrowException, OSError, ValueError):
        return False


def _values(file: Any) -> Iterator[str]:
    """Every row as text: NaN is unlike itself."""
    for batch in file.iter_batches(batch_size=BATCH_ROWS):
        yield from map(repr, batch.to_pylist())


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep the progress bars of `datasets` off the screen."""
    from datasets.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    silent = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not silent:
            enable_progress_bars()
