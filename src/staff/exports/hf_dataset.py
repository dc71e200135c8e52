"""A folder of `datasets`: prompt and completion, messages or text, as TRL's documents name them."""

import shlex
from pathlib import Path
from tempfile import TemporaryDirectory

from staff.exports import trl
from staff.exports.trainer import Trainer
from staff.hashing import hash_file


def save(table: Path, out: Path) -> None:
    """Write what `datasets.load_from_disk` reads, of a Parquet file."""
    from datasets import Dataset, disable_progress_bars, enable_progress_bars
    from datasets.utils import are_progress_bars_disabled

    silent = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        with TemporaryDirectory(dir=table.parent, prefix=table.stem, suffix=".part") as cache:
            read = Dataset.from_parquet(str(table), cache_dir=cache)
            # Its own fingerprint is of the cache's path: the same rows shall make the same bytes.
            same = Dataset(read.data, info=read.info, fingerprint=hash_file(table)[:16])
            same.save_to_disk(str(out))
    finally:
        if not silent:
            enable_progress_bars()


def command(folder: str) -> str:
    """How to open it."""
    program = f"from datasets import load_from_disk; print(load_from_disk({folder!r}))"
    return f"python -c {shlex.quote(program)}"


HF_DATASET = Trainer(shape=trl.shape, command=command, save=save, taken=trl.TRL.taken)
