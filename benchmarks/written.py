"""What a results page says of its making: command line and machine."""

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path


def command_line(
    script: str,
    *,
    data: Path | None = None,
    work: Path | None = None,
    target: Path | None = None,
    models: Path | None = None,
) -> str:
    """The command that runs: `script` (its `__file__`) and its arguments.

    data, work, target, models: folders of whoever runs it, spelt DIR, WORK, TARGET and MODELS.
    """
    folders = {"DIR": data, "WORK": work, "TARGET": target, "MODELS": models}
    spelt = {str(path): name for name, path in folders.items() if path}
    words = [spelt.get(word, word) for word in sys.argv[1:]]
    return " ".join([f"python benchmarks/{Path(script).name}", *words])


def machine(used: str | None = None, *, also: Sequence[str] = ()) -> str:
    """Processor, `used` of it (by default its CPUs), system and versions of what computes.

    also: packages whose versions matter besides those of torch and transformers.
    """
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line.partition(":") for line in info.read_text().splitlines()]
        name = next((text.strip() for key, _, text in lines if "model name" in key), name)
    cpus = f"{os.cpu_count()} CPUs"
    versions = [f"{package} {version(package)}" for package in ("torch", "transformers", *also)]
    system = f"{platform.system()}, Python {platform.python_version()}"
    return ", ".join([name, used or cpus, system, *versions])
