"""The command line that a results page gives for itself."""

import sys
from pathlib import Path


def command_line(script: str, *, data: Path | None = None, work: Path | None = None) -> str:
    """The command that runs: `script` (its `__file__`) and its arguments.

    data, work: folders of whoever runs it, spelt DIR and WORK.
    """
    spelt = {str(path): name for path, name in ((data, "DIR"), (work, "WORK")) if path}
    words = [spelt.get(word, word) for word in sys.argv[1:]]
    return " ".join([f"python benchmarks/{Path(script).name}", *words])
