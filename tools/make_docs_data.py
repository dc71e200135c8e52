"""Sample a tutorial's medical questions from MedQuAD (`--data dir/medquad`) into docs/data.

Only rows with an answer of at most 600 characters, for a laptop's sake. What a question is about
decides by hash whether it is a test question, so no disease is in both files; rows are then taken
by the hash of their line, in their order, every byte of it kept.
"""

import argparse
import hashlib
import json
from pathlib import Path

from make_demo_data import sample

ROWS = {"train": 400, "test": 60}
LONGEST = 600
OUT = Path(__file__).resolve().parents[1] / "docs/data/medquad"


def is_test(focus: str) -> bool:
    """Whether questions about this are for the test: about one in ten."""
    return hashlib.sha256(focus.encode()).digest()[0] % 10 == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    text = (args.data / "train.jsonl").read_text(encoding="utf-8")
    records = [(line, json.loads(line)) for line in text.rstrip("\n").split("\n")]
    short = [(line, r["focus"]) for line, r in records if len(r["answer"]) <= LONGEST]
    for split, count in ROWS.items():
        lines = sample([line for line, f in short if is_test(f) == (split == "test")], count)
        (OUT / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")


if __name__ == "__main__":
    main()
