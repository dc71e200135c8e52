"""Peak memory of reading and tokenising: 10^5 rows against 10^4.

    python benchmarks/memory.py [--kind jsonl|json|csv|parquet|arrow] [--write]

Rows are E2E-like (about 30 words), the tokenizer a small byte-level BPE made here. Each size
runs in a fresh process that also holds the columns a run keeps (ids, lengths).
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SIZES = (10_000, 100_000)
ALLOWED_MB = 100
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


def measure(path: Path, tokenizer: Path, out: Path) -> dict[str, float]:
    """In this process: prepare the file; peak resident memory in MB and seconds."""
    from transformers import AutoTokenizer

    from staff.data.files import open_source
    from staff.data.prepare import prepare
    from staff.data.records import RecordOptions
    from staff.data.tokenise import Tokeniser

    tokeniser = Tokeniser(AutoTokenizer.from_pretrained(tokenizer), max_length=512)
    start = time.monotonic()
    done = prepare(open_source(path), RecordOptions(), [tokeniser], out=out)
    held = [(store.ids, store.lengths) for store in done.stores]
    seconds = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return {"rows": len(held[0][0]), "peak_mb": peak / unit, "seconds": seconds}


def compare(kind: str, sizes: tuple[int, ...], folder: Path) -> list[dict[str, float]]:
    """One fresh process a size."""
    write_tokenizer(folder / "tokenizer")
    found = []
    for n in sizes:
        path = folder / f"{n}.{kind}"
        write_rows(path, n)
        command = [sys.executable, __file__, "--measure", path, folder / "tokenizer"]
        run = subprocess.run([*command, folder / f"out-{n}"], capture_output=True, check=True)
        found.append(json.loads(run.stdout))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", default="jsonl")
    parser.add_argument("--write", action="store_true", help=f"also write {RESULTS.name}")
    parser.add_argument("--measure", nargs=3, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = compare(arguments.kind, SIZES, Path(folder))
    lines = ["| rows | peak MB | seconds |", "| --- | --- | --- |"]
    lines += [f"| {f['rows']:,} | {f['peak_mb']:.0f} | {f['seconds']:.1f} |" for f in found]
    extra = found[-1]["peak_mb"] - found[0]["peak_mb"]
    lines += ["", f"{arguments.kind}: {extra:.0f} MB more (allowed: {ALLOWED_MB})."]
    print("\n".join(lines))
    if arguments.write:
        RESULTS.parent.mkdir(exist_ok=True)
        machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
        head = f"# Memory of reading and tokenising\n\n`python benchmarks/memory.py`, {machine}\n\n"
        RESULTS.write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
