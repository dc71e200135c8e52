"""Which files of a folder, or of a pattern, hold the rows of one data set, and in which order."""

import glob
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from staff.data.kinds import KINDS, kind_of, named_kind
from staff.data.places import leads_outside
from staff.errors import DataError

# The words by which `datasets` tells the splits of a folder's files.
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
WORD = re.compile(r"[a-z]+")
ABOUT = ("dataset_info.json", "dataset_infos.json")  # written by `datasets`, not data
SHOWN = 5


def is_pattern(name: str) -> bool:
    """Whether a path that is not there stands for several files, as ``part-*.jsonl`` does."""
    return any(sign in name for sign in "*?[")


def matching(pattern: str) -> tuple[Path, ...]:
    """The files that match a pattern (``*``, ``?``, ``[…]``, ``**``), sorted by path.

    Raises `DataError` if there are none, one is a broken link, or none of them holds anything.
    """
    # Path.glob takes no absolute pattern, and its stars match hidden files.
    found = [Path(name) for name in glob.glob(pattern, recursive=True)]  # noqa: PTH207
    return _with_rows(sorted(path for path in found if not path.is_dir()), pattern)


def files_of(folder: Path, split: str) -> tuple[Path, ...]:
    """The data files of a folder: those that `save_to_disk` names, else all, sorted by name.

    In the second case they may also lie in its folder ``data`` or that of the split. Names that
    begin with ``.`` or ``_`` are left out, and so are other splits if the names tell several.

    Raises `DataError`: no data files, or in several of these places; no such split; a link that is
    broken or leads out of the folder.
    """
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return _saved(folder, split)
    if all((folder / name).is_file() for name in ("manifest.json", "config.yaml")):
        raise DataError(f"{folder} is the folder of a run. Give a file in it, such as a coreset.")
    places = [folder, folder / "data", folder / split]
    found = [files for place in places if (files := _listed_in(place))]
    if not found:
        raise DataError(
            f"{folder} holds no data files (known endings: {', '.join(KINDS)}), nor does a folder "
            f"data or {split} in it, and it is not made by save_to_disk either. Give the folder "
            "that holds them, or a pattern in quotes."
        )
    if len(found) > 1:
        raise DataError(
            f"{folder} holds data files in several places: {found[0][0]} and {found[1][0]}. Give "
            f"{found[1][0].parent}, or a pattern in quotes: '{_pattern_of(found[0][0])}'."
        )
    [files] = found
    for file in files:
        if leads_outside(file, folder):
            raise DataError(
                f"{file} is a link that leads out of {folder}. Put the file itself in the folder, "
                f"or give a pattern in quotes, which may match links: '{_pattern_of(file)}'."
            )
    return _with_rows(_of_split(files, split, folder), str(folder))


def said_of_files(folder: Path | None, files: Sequence[Path]) -> str | None:
    """A line on the splits and folders that are read or left out; None where none could be missed.

    folder: of which `files_of` found these files; None: `matching` did, which reads all of them.
    """
    said = [_said_of_splits(folder, files)]
    if folder and not (folder / "dataset_dict.json").is_file():
        beside = files[0].parent.iterdir()
        left = sorted(path.name for path in beside if not _hidden(path) and _holds_data(path))
        if left:
            names = ", ".join(left[:SHOWN]) + (" …" if len(left) > SHOWN else "")
            said.append(f"left out: data files in the folder{'s' * (len(left) > 1)} {names}")
    return "; ".join(filter(None, said)) or None


def _said_of_splits(folder: Path | None, files: Sequence[Path]) -> str | None:
    read = _told(files)
    if folder is None:
        return f"files of several splits are read: {_in_words(read)}" if len(read) > 1 else None
    if (folder / "dataset_dict.json").is_file():
        read = {files[0].parent.name}
        found = set(map(str, _listed(folder / "dataset_dict.json", "splits")))
    else:
        found = _told(_listed_in(files[0].parent))
    others = found - read
    return f"split {_in_words(read)}; not read: {_in_words(others)}" if read and others else None


def common_kind(files: tuple[Path, ...]) -> str:
    """The one kind that all files are of. Raises `DataError` if there are several."""
    kinds = {kind_of(file): file for file in reversed(files)}
    if set(kinds) == {"json", "jsonl"} and len({file.suffix for file in files}) == 1:
        raise DataError(
            f"{kinds['json']} is a JSON array, and {kinds['jsonl']} has one object a line. Make "
            "them alike."
        )
    if len(kinds) > 1:
        several = " and ".join(f"{file} ({kind})" for kind, file in sorted(kinds.items()))
        raise DataError(
            f"files of one data set must be of one kind, unlike {several}. Give a pattern in "
            f"quotes that matches one kind: '{_pattern_of(files[0])}'."
        )
    return next(iter(kinds))


def _pattern_of(file: Path) -> str:
    """The pattern of all files beside this one that end as it does."""
    return f"{glob.escape(str(file.parent))}/*{file.suffix}"


def _listed_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if named_kind(path) and not path.is_dir() and path.name not in ABOUT
        if not _hidden(path)
    )


def _holds_data(path: Path) -> bool:
    """Whether there are data files in a folder that is not read; if it cannot be, there are none.

    As in the lost+found of a disk, which is root's alone.
    """
    try:
        return bool(_listed_in(path))
    except OSError:
        return False


def _hidden(path: Path) -> bool:
    return path.name.startswith((".", "_"))


def _of_split(files: list[Path], split: str, folder: Path) -> list[Path]:
    """Those of the split, if the names tell several apart; a file may say none."""
    splits = sorted(_told(files))
    if len(splits) < 2:
        return files
    if split not in splits:
        raise DataError(
            f"{folder} has no files of the split {split!r}, only of {', '.join(splits)}. Give a "
            "pattern in quotes that matches those you mean."
        )
    return [file for file in files if _said(file) == split]


def _told(files: Sequence[Path]) -> set[str]:
    return {name for name in map(_said, files) if name}


def _in_words(splits: set[str]) -> str:
    return ", ".join(sorted(splits))


def _said(file: Path) -> str | None:
    words = set(WORD.findall(file.name.lower()))
    return next((split for split, names in SPLITS.items() if words & set(names)), None)


def _with_rows(files: list[Path], name: str) -> tuple[Path, ...]:
    """Without those of no bytes, which Spark writes for a part without rows."""
    if not files:
        raise DataError(f"no file matches {name}. Check the path.")
    for file in files:
        if not file.exists():
            raise DataError(f"{file} is a link to a file that is not there. Fetch or remove it.")
    filled = tuple(file for file in files if file.stat().st_size)
    if not filled:
        raise DataError(f"{name}: every file is empty ({', '.join(f.name for f in files[:SHOWN])})")
    return filled


def _saved(folder: Path, split: str) -> tuple[Path, ...]:
    """The Arrow files of a folder made by `save_to_disk`, in the order of their rows."""
    root = folder
    if (folder / "dataset_dict.json").is_file():
        splits = [str(name) for name in _listed(folder / "dataset_dict.json", "splits")]
        if split not in splits:
            raise DataError(
                f"{folder} has no split {split!r}, only {', '.join(splits)}. "
                f"Give the folder of one of them, e.g. {folder / splits[0] if splits else folder}"
            )
        folder = folder / split
    if not (folder / "state.json").is_file():
        raise DataError(f"{folder} has no state.json. Save the data set again.")
    entries = _listed(folder / "state.json", "_data_files")
    names = [str(entry["filename"]) for entry in entries if isinstance(entry, dict) and entry]
    files = tuple(folder / name for name in names)
    for file in files:
        if leads_outside(file, root):
            raise DataError(
                f"{root} names {file}, which lies outside the folder or is a link that leads out. "
                "Put the file itself in the folder."
            )
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        lost = missing[0].name if missing else "every data file"
        raise DataError(f"{folder}: {lost} is missing. Save the data set again.")
    return files


def _listed(path: Path, key: str) -> list[Any]:
    """The list under a key of a JSON file; empty if the key is not there."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get(key, [])
        if not isinstance(found, list):
            raise ValueError(f"{key} is not a list")
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is broken ({error}). Save the data set again.") from error
    return found
