"""A folder of `datasets`: prompt and completion, messages or text, as TRL's documents name them."""

import shlex
from pathlib import Path

from staff.data.in_memory import without_bars
from staff.errors import ConfigError
from staff.exports import trl
from staff.exports.trainer import Trainer
from staff.hashing import hash_file


def save(table: Path, out: Path) -> None:
    """Write what `datasets.load_from_disk` reads, of a Parquet file.

    Raises:
        ConfigError: it has tool calls or reasoning, and this version of `datasets` is too old.
    """
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

    if "arrow.json" in str(pq.read_schema(table)) and not hasattr(datasets, "Json"):
        raise ConfigError(
            f"datasets {datasets.__version__} cannot hold tool calls, reasoning or arguments of "
            "chat templates: pip install -U 'datasets>=4.7'"
        )

    # By way of a file that is mapped: `Dataset.from_parquet` takes its path for a pattern.
    stream = table.with_suffix(".arrow")
    with (
        pq.ParquetFile(table) as file,
        pa.OSFile(str(stream), "wb") as sink,
        pa.ipc.new_stream(sink, file.schema_arrow) as writer,
    ):
        for batch in file.iter_batches():
            writer.write_batch(batch)
    with without_bars():
        rows = Dataset.from_file(str(stream))
        # Its own fingerprint is of the file's path: the same rows shall make the same bytes.
        rows = Dataset(rows.data, info=rows.info, fingerprint=hash_file(table)[:16])
        rows.save_to_disk(str(out))


def command(folder: str) -> str:
    """How to open it.

    >>> print(command("runs/x/data"))
    python -c "from datasets import load_from_disk; print(load_from_disk('runs/x/data'))"
    """
    program = f"from datasets import load_from_disk; print(load_from_disk({folder!r}))"
    plain = shlex.quote(folder) == folder  # means nothing between a shell's double quotes either
    return f'python -c "{program}"' if plain else f"python -c {shlex.quote(program)}"


# Columns beside these that TRL looks at in a data set it is handed as a whole.
TAKEN = frozenset(
    {
        *("tools", "chat_template_kwargs", "conversations", "chosen", "rejected"),
        *("image", "images", "input_ids", "labels", "completion_mask", "assistant_masks"),
    }
)
HF_DATASET = Trainer(
    shape=trl.shape,
    command=command,
    save=save,
    taken=trl.TRL.taken | TAKEN,
    gives=trl.TRL.gives,
)
