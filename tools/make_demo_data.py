"""Sample the demo's data set from the official E2E NLG files (`--data dir/e2e_nlg`).

Rows are taken by the hash of their text, so the sample depends on nothing else;
they keep their order and every byte of their line.
"""

import argparse
import hashlib
from pathlib import Path

ROWS = {"train": 4000, "val": 300, "test": 400}
OUT = Path(__file__).resolve().parents[1] / "src/staff/assets/e2e_nlg"


def sample(lines: list[str], count: int) -> list[str]:
    """Return `count` lines, those of the smallest hash, in their original order."""
    ranked = sorted(
        range(len(lines)), key=lambda i: hashlib.sha256(f"{i}\0{lines[i]}".encode()).digest()
    )
    return [lines[i] for i in sorted(ranked[:count])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    for split, count in ROWS.items():
        text = (args.data / f"{split}.jsonl").read_text(encoding="utf-8")
        lines = sample(text.rstrip("\n").split("\n"), count)
        (OUT / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
