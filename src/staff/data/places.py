"""Whether a path leads outside its folder, and the refusal of links."""

import os
from pathlib import Path

from staff.errors import RunError


def leads_outside(path: Path, folder: Path) -> bool:
    """Whether a path, with its ``..`` and links followed, lies outside a folder."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def refuse_link(path: Path) -> None:
    """Raise `RunError` if a file or folder of ours is a link: what it points to is not ours."""
    if path.is_symlink():
        raise RunError(f"{path} is a link, and is not followed: remove it")
