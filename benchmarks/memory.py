"""Peak memory of a run: 10^5 rows against 10^4.

    python benchmarks/memory.py [--kind jsonl|json|csv|parquet|arrow] [--read-only] [--write]

Rows are E2E-like (about 30 words), the tokenizer a small byte-level BPE made here. Each size runs
in a fresh process: reading and tokenising alone (with --read-only nothing else), and the whole of
`staff select --skip-finetune` with a very small random Llama as both models, which also scores
every row, verifies, selects and writes. A run holds ids and score columns, about 150 bytes per row,
which are included.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from written import command_line, machine

SIZES = (10_000, 100_000)
ALLOWED_MB = 100
KEEP, LAYERS, WIDTH = 0.1, 1, 16
RESULTS = Path(__file__).parent / "results" / "memory.md"


def write_rows(path: Path, n: int) -> None:
    """n different rows of prompt and response."""
    from staff.data.raw import RawRecord
    from staff.data.writers import write_records

    def rows() -> Iterator[RawRecord]:
        for i in range(n):
            words = [f"w{(i * 7919 + k * 104_729) % 9973}" for k in range(30)]
            record = {"prompt": " ".join(words[:12]), "response": f"{i} " + " ".join(words[12:])}
            yield RawRecord(i, None, record)

    kind = path.suffix[1:]
    if kind == "arrow":
        import pyarrow as pa

        table = pa.Table.from_pylist([row.record for row in rows()])
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=1000)
    else:
        write_records(path, rows(), format=kind)


def write_tokenizer(folder: Path) -> None:
    """Bytes only: the vocabulary does not matter here."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>").save_pretrained(folder)


def write_model(folder: Path) -> None:
    """The smallest Llama that has everything, beside its tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(folder)),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=1,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def select(path: Path, model: Path, out: Path) -> int:
    """A whole run without fine-tuning; the number of rows scored."""
    from staff import pipeline
    from staff.runs.config import SelectConfig

    config = SelectConfig(
        data=str(path),
        small=str(model),
        target=str(model),
        keep=(KEEP,),
        skip_finetune=True,
        out=str(out),
    )
    return pipeline.select(config)["data"]["rows_usable"]


def read(path: Path, tokenizer: Path, out: Path) -> int:
    """Reading and tokenising alone; the number of rows."""
    from transformers import AutoTokenizer

    from staff.data.files import open_source
    from staff.data.prepare import prepare
    from staff.data.records import RecordOptions
    from staff.data.tokenise import Tokeniser

    tokeniser = Tokeniser(AutoTokenizer.from_pretrained(tokenizer), max_length=512)
    done = prepare(open_source(path), RecordOptions(), [tokeniser], out=out)
    held = [(store.ids, store.lengths) for store in done.stores]
    return len(held[0][0])


WORK = {"read and tokenise": read, "select, whole run": select}


def measure(work: str, path: Path, model: Path, out: Path) -> dict[str, float]:
    """In this process: peak resident memory in MB and seconds of one kind of work."""
    from staff.planning import peak

    start = time.monotonic()
    rows = WORK[work](path, model, out)
    seconds = time.monotonic() - start
    return {"rows": rows, "peak_mb": peak.read("cpu") / (1 << 20), "seconds": seconds}


def compare(work: str, kind: str, sizes: tuple[int, ...], folder: Path) -> list[dict[str, float]]:
    """One fresh process a size."""
    found = []
    for n in sizes:
        path = folder / f"{n}.{kind}"
        if not path.exists():
            write_rows(path, n)
        out = folder / f"{work.split()[0]}-{n}"
        command = [sys.executable, __file__, "--measure", work, path, folder / "model", out]
        run = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        found.append(json.loads(run.stdout))
    return found


def setting(kind: str) -> str:
    """What is measured, as the page says it."""
    import torch

    from staff.models.device import choose_dtype
    from staff.runs.config import SelectConfig

    batch = SelectConfig.model_fields["batch_tokens"].default
    dtype = str(choose_dtype("auto", torch.device("cpu"))).removeprefix("torch.")
    return (
        f"Made-up rows of 30 words, about 180 tokens of a byte each, as {kind}. The whole run: "
        f"`staff select --skip-finetune --keep {KEEP}`, which scores every row and verifies, with "
        f"a random Llama of {LAYERS} block of width {WIDTH} as both models, in {dtype}, batches of "
        f"{batch:,} tokens on a CPU. So these peaks are PyTorch's and the rows'; those of rows of "
        "all lengths and of a model of 1.1M parameters are in [scaling.md](scaling.md)."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", default="jsonl")
    parser.add_argument("--write", action="store_true", help=f"also write {RESULTS.name}")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--read-only", action="store_true", help="reading and tokenising alone")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        work, *paths = arguments.measure
        print(json.dumps(measure(work, *map(Path, paths))))
        return
    lines = ["| work | rows | peak MB | seconds | MB above the first |", "| --- " * 5 + "|"]
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder) / "model")
        write_model(Path(folder) / "model")
        for work in list(WORK)[: 1 if arguments.read_only else None]:
            found = compare(work, arguments.kind, arguments.sizes, Path(folder))
            lines += [
                f"| {work} | {f['rows']:,} | {f['peak_mb']:.0f} | {f['seconds']:.1f} "
                f"| {f['peak_mb'] - found[0]['peak_mb']:.0f} |"
                for f in found
            ]
    lines = [setting(arguments.kind), "", *lines, ""]
    lines.append(f"Limit: {ALLOWED_MB} MB from 10^4 to 10^5 rows.")
    print("\n".join(lines))
    if arguments.write:
        RESULTS.parent.mkdir(exist_ok=True)
        about = f"`{command_line(__file__)}`, {date.today()}, {machine()}"
        head = f"# Memory against the number of rows\n\n{about}\n\n"
        RESULTS.write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
