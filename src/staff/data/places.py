"""Whether a file lies where it seems to lie."""

import os
from pathlib import Path


def leads_outside(path: Path, folder: Path) -> bool:
    """Whether a path, with its ``..`` and links followed, lies outside a folder."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
