"""What 8 and 4 bits do to effort scores: their ranks compared with those of float32 weights.

    python benchmarks/quantized.py --data DIR [--models DIR] [--sets e2e_nlg …] [--rows N] [--write]

DIR contains a folder with train.jsonl for each set; rows are drawn at random and truncated to 256
tokens. The models are the embedded family and the model folders under --models. Every row of every
set is scored with each model as it is (not fine-tuned), in each precision, with phi last-value.
Printed are Spearman's correlation with the float32 scores and its 95 % interval over rows, the
share of the tenth with the highest scores that is the same, the median relative difference of a
score, and the size of the weights. Needs the extra `quant`. Nothing is timed, so other work on the
machine does not matter.
"""

import argparse
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from staff import demo
from staff.data.batches import collate, token_budget_batches
from staff.data.files import open_source
from staff.models.load import load_model
from staff.runs.config import ScoreConfig
from staff.scores.effort import Scorer
from staff.selectors.agreement import rank_correlation
from staff.stages import draws, reading
from staff.stages.facts import tokenisers_of
from staff.types import Floats, TokenisedExample
from written import command_line, machine

RESULTS = Path(__file__).parent / "results"
COLUMNS = {
    "e2e_nlg": {"prompt_column": "mr", "response_column": "ref"},
    "gsm8k": {"prompt_column": "question", "response_column": "answer"},
    "dialogsum": {"prompt_column": "dialogue", "response_column": "summary"},
    "medquad": {"prompt_column": "question", "response_column": "answer"},
    "clinc150": {"prompt_column": "text", "response_column": "intent"},
}
MAX_LENGTH = 256
EXACT = ("float32", "none")
# (dtype of all else and of the products, how the linear layers' weights are kept)
KINDS = (
    ("bfloat16", "none"),
    ("float32", "int8"),
    ("float32", "llm-int8"),
    ("float32", "nf4"),
    ("bfloat16", "nf4"),
)
HEAD = ("model", "set", "weights", "Spearman", "95 % interval", "top tenth", "difference", "size")


def rows_of(model: str, file: Path, columns: dict[str, str], count: int) -> list[TokenisedExample]:
    """Some rows of a file, tokenised for a model."""
    with tempfile.TemporaryDirectory(prefix="staff-") as scratch:
        config = ScoreConfig(
            data=str(file), model=model, out=scratch, max_length=MAX_LENGTH, on_bad_row="skip",
            **columns,
        )  # fmt: skip
        readers = tokenisers_of((model,), max_length=MAX_LENGTH)
        found = reading.read(
            config, open_source(str(file)), readers, folder=Path(scratch), progress=None
        )
        store = found.stores[0]
        return store.get(draws.some(store, count, seed=0))


def efforts(
    model: str, rows: list[TokenisedExample], dtype: str, quantize: str
) -> tuple[Floats, int]:
    """Scores float64 [n] and the bytes of the weights."""
    loaded = load_model(model, dtype=dtype, device="cpu", quantize=quantize)
    scorer = Scorer(loaded, signals=())
    found = np.full(len(rows), np.nan)
    lengths = np.array([len(row.input_ids) for row in rows])
    for places in token_budget_batches(lengths, batch_tokens=2048):
        found[places] = scorer(collate([rows[i] for i in places]))["effort"]
    return found, size_of(loaded)


def size_of(model: Any) -> int:
    """Bytes of weights, scales included: what each tensor's storages take."""
    seen: dict[int, int] = {}
    for module in model.modules():
        for held in module._parameters.values():
            for tensor in tensors_in(held):
                storage = tensor.untyped_storage()
                seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


def tensors_in(held: Any) -> Iterator[Any]:
    """A parameter, or what a quantised one is made of."""
    if held is None:
        return
    if hasattr(held, "qdata"):  # torchao
        yield from (held.qdata, held.scale)
        return
    yield held
    if (state := getattr(held, "quant_state", None)) is not None:
        yield state.absmax
        if state.nested:
            yield state.state2.absmax
    if (scales := getattr(held, "SCB", None)) is not None:
        yield scales


def compare(exact: Floats, found: Floats) -> list[str]:
    ranked = rank_correlation(exact, found)
    tenth = max(1, len(exact) // 10)
    top = [set(np.argsort(-scores, kind="stable")[:tenth].tolist()) for scores in (exact, found)]
    apart = np.abs(found / exact - 1)
    interval = ranked.interval if ranked else None
    return [
        f"{ranked.value:.4f}" if ranked else "",
        f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else "",
        f"{len(top[0] & top[1]) / tenth:.0%}",
        f"{np.median(apart):.2%}",
    ]


def lines(models: dict[str, str], sets: list[str], data: Path, count: int) -> Iterator[list[str]]:
    for name, model in models.items():
        for kind in sets:
            rows = rows_of(model, data / kind / "train.jsonl", COLUMNS[kind], count)
            exact, full = efforts(model, rows, *EXACT)
            yield [
                name,
                f"{kind} ({len(rows)})",
                "float32",
                "1",
                "",
                "100%",
                "",
                f"{full / 1e6:.2f} MB",
            ]
            for dtype, quantize in KINDS:
                found, size = efforts(model, rows, dtype, quantize)
                label = dtype if quantize == "none" else quantize
                label += ", bfloat16" if quantize != "none" and dtype == "bfloat16" else ""
                yield ["", "", label, *compare(exact, found), f"{size / 1e6:.2f} MB"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path)
    parser.add_argument(
        "--sets", nargs="+", default=["e2e_nlg", "gsm8k", "dialogsum"], choices=COLUMNS
    )
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    models = {
        f"embedded {role}": str(demo.ASSETS / "family" / role) for role in ("small", "target")
    }
    for folder in sorted(given.models.iterdir()) if given.models else ():
        if (folder / "config.json").is_file():
            models[folder.name] = str(folder)
    table = [HEAD, ["---"] * len(HEAD)]
    for line in lines(models, given.sets, given.data, given.rows):
        print(" | ".join(line), flush=True)
        table.append(line)
    if given.write:
        command = command_line(__file__, data=given.data, models=given.models)
        write(table, given.rows, command)


def write(table: list[Any], rows: int, command: str) -> None:
    about = machine(also=("bitsandbytes", "torchao"))
    text = "\n".join(f"| {' | '.join(line)} |" for line in table)
    RESULTS.joinpath("quantized.md").write_text(
        f"""# Effort scores of quantised weights, compared with float32

`{command}`, {date.today()}
{about}. No GPU was available: on one, products are rounded differently
and bitsandbytes has other kernels.

{rows} random rows of each training set (truncated to {MAX_LENGTH} tokens), models not fine-tuned,
phi last-value. Spearman's correlation of the scores with those of the same model in float32, its
95 % interval over rows (Bonett and Wright, 2000); the share of the tenth of the rows with the
highest scores that is the same; the median relative difference of a score; the size of all weights.
Embeddings and head keep their precision, so models this small shrink less than large ones.

{text}
""",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
