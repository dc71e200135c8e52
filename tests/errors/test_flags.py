"""Command lines that cannot be run."""

import pytest

GROUP = "Flags"
RANDOM = "staff select train.jsonl --method random --out out"
MODELS = "staff select train.jsonl --small small --target target --out out"
COMPARE = "staff compare train.jsonl --target target --small small"

CASES = [
    ("no data", {}, "staff select --keep 0.5", 0, "?"),
    ("no size", {}, RANDOM, 0, "?"),
    ("no small model", {}, "staff select train.jsonl --keep 0.5 --out out", 0, "?"),
    ("no target", {}, "staff select train.jsonl --small small --keep 0.5 --out out", 0, "?"),
    ("no folder to write to", {}, "staff select train.jsonl --method random --keep 0.5", 0, "?"),
    ("an empty folder name, as of a shell variable without a value", {}, "staff select train.jsonl --method random --keep 0.5 --out ''", 0, "?"),
    ("a command that is not known", {}, "staff selekt train.jsonl", 0, "?"),
    ("a flag that is not known", {}, f"{RANDOM} --keep 0.5 --fast", 0, "?"),
    ("a mistyped flag", {}, f"{RANDOM} --keep 0.5 --sede 3", 0, "?"),
    ("a flag without its value", {}, f"{RANDOM} --keep", 0, "?"),
    ("two data files", {}, "staff select train.jsonl test.jsonl --method random --keep 0.5 --out out", 0, "?"),
    ("a fraction of 0", {}, f"{RANDOM} --keep 0", 0, "?"),
    ("a percentage for a fraction", {}, f"{RANDOM} --keep 10", 0, "?"),
    ("a fraction that is text", {}, f"{RANDOM} --keep lots", 0, "?"),
    ("a file after --keep", {}, "staff select --method random --out out --keep 0.5 train.jsonl", 0, "?"),
    ("a total of no rows", {}, f"{RANDOM} --total 0", 0, "?"),
    ("a total of half rows", {}, f"{RANDOM} --total 1.5", 0, "?"),
    ("a total above the rows there are", {}, f"{RANDOM} --total 9", 0, "?"),
    ("a fraction of less than one row", {}, f"{RANDOM} --keep 0.01", 0, "?"),
    ("one coreset twice", {}, f"{RANDOM} --keep 0.5 0.50", 0, "?"),
    ("tokens without a tokenizer", {}, f"{RANDOM} --tokens 100", 0, "?"),
    ("a mistyped method", {}, "staff select train.jsonl --method randon --keep 0.5 --out out", 0, "?"),
    ("a cut of everything", {}, f"{RANDOM} --keep 0.5 --cut 1", 0, "?"),
    ("no regions", {}, f"{RANDOM} --keep 0.5 --regions 0", 0, "?"),
    ("a thousand million regions", {}, f"{MODELS} --keep 0.5 --regions 1000000000", 0, "?"),
    ("stability over one seed", {}, f"{RANDOM} --keep 0.5 --stability 1", 0, "?"),
    ("stability over a thousand million seeds", {}, f"{RANDOM} --keep 0.5 --stability 1000000000", 0, "?"),
    ("a list of ids that is not there", {}, f"{RANDOM} --keep 0.5 --include ids.txt", 0, "?"),
    ("a list with an id twice", {"ids.txt": "a\nb\na\n"}, f"{RANDOM} --keep 0.5 --exclude ids.txt", 0, "?"),
    ("a list that is no text", {"ids.txt": b"\xff\xfe\xfd"}, f"{RANDOM} --keep 0.5 --exclude ids.txt", 0, "?"),
    ("an id to include that no row has", {"ids.txt": "nobody\n"}, f"{RANDOM} --keep 0.5 --include ids.txt", 0, "?"),
    ("an id on both lists", {"a.jsonl": '{"id": 1, "text": "a"}\n{"id": 2, "text": "b"}\n', "ids.txt": "1\n"}, "staff select a.jsonl --id-column id --method random --total 1 --out out --include ids.txt --exclude ids.txt", 0, "?"),
    ("neither fine-tuning nor none", {}, f"{MODELS} --keep 0.5 --skip-finetune --adapter adapter", 0, "?"),
    ("a model beside stored scores", {}, "staff select --scores run --small small --keep 0.5", 0, "?"),
    ("a device that is not there", {}, f"{MODELS} --keep 0.5 --device cuda:99", 0, "?"),
    ("a precision that is not known", {}, f"{MODELS} --keep 0.5 --dtype float64", 0, "?"),
    ("a length beyond the models' context", {}, f"{MODELS} --keep 0.5 --max-length 9999", 0, "?"),
    ("a metric that is not known", {}, "staff evaluate test.jsonl --model small --metrics loss rouge", 0, "?"),
    ("an adapter of rank 0", {}, "staff finetune train.jsonl --model small --out out --rank 0", 0, "?"),
    ("an adapter of rank a thousand million", {}, "staff finetune train.jsonl --model small --out out --rank 1000000000", 0, "?"),
    ("a negative learning rate", {}, "staff finetune train.jsonl --model small --out out --learning-rate -1", 0, "?"),
    ("a row, and no run", {}, "staff why --row 3", 0, "?"),
    ("a run, and no row", {}, "staff why run", 0, "?"),
    ("a row by number and by id", {}, "staff why run --row 3 --id x", 0, "?"),
    ("a row that is no number", {}, "staff why run --row first", 0, "?"),
    ("a row that is a digit and no number", {}, "staff why run --row ²", 0, "?"),
    ("a number that is missing", {}, f"{RANDOM} --keep 0.5 --seed", 0, "?"),
    ("a file name that is not UTF-8", {}, "staff select train.jsonl --method random --keep 0.5 --out out\udcff", 0, "?"),
    ("a run's name that is not UTF-8", {}, "staff report run\udcff", 0, "?"),
    ("a report of nothing", {}, "staff report", 0, "?"),
    ("a comparison without test data", {}, f"{COMPARE} --keep 0.5 --out out", 0, "?"),
    ("a comparison of one method twice", {}, f"{COMPARE} --test test.jsonl --keep 0.5 --methods random random --out out", 0, "?"),
    ("a comparison of no seeds", {}, f"{COMPARE} --test test.jsonl --keep 0.5 --seeds 0 --out out", 0, "?"),
    ("a comparison of a thousand million seeds", {}, f"{COMPARE} --test test.jsonl --keep 0.5 --seeds 1000000000 --out out --dry-run", 0, "?"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_it_is_refused(case, refused):
    refused(case)
