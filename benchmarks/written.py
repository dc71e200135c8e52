"""What a results page says of how it was made."""

import sys
from pathlib import Path


def command_line(script: str, *, data: Path | None = None) -> str:
    """The command that runs: `script` (its `__file__`) and its arguments, `data` spelt DIR."""
    words = ["DIR" if data and word == str(data) else word for word in sys.argv[1:]]
    return " ".join([f"python benchmarks/{Path(script).name}", *words])
