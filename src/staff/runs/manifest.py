"""manifest.json: settings, stages, costs and files of a run. Written last: it means done."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from staff import __version__
from staff.data.streams import is_utf8
from staff.errors import RunError
from staff.hashing import hash_file
from staff.notes import read_note
from staff.runs.config_file import written_by
from staff.runs.links import refuse_links_out
from staff.runs.lock import utc_now
from staff.runs.shape import check_shape
from staff.runs.store import CORESET, write_atomic

FORMAT = 1
COMPARISON = "comparison.json"  # of `staff demo`
PACKAGES = (
    *("torch", "transformers", "tokenizers", "peft", "trl", "accelerate", "datasets"),
    *("numpy", "pyarrow", "safetensors"),
)


def begin(command: str, config: Any, *, seed: int) -> dict[str, Any]:
    """The part of a manifest that is known before any work: who, when, with what.

    config: the settings as a dict. The caller adds data, models, device, stages and the
    results (docs/formats.md), and hands it to `write_manifest`.
    """
    return {
        "format": FORMAT,
        "staff_version": __version__,
        "command": command,
        "created": utc_now(),
        "config": config,
        "versions": versions(),
        "seed": seed,
    }


def is_of_these_versions(manifest: Mapping[str, Any]) -> bool:
    """Whether what is installed now, of all that results depend on, made this manifest's run."""
    made, now = manifest.get("versions") or {}, versions()
    same = all(made.get(name) == now.get(name) for name in PACKAGES)
    return same and manifest.get("staff_version") == __version__


def versions() -> dict[str, str]:
    """Python and the packages that results depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def device_facts(device: str, dtype: str) -> dict[str, Any]:
    """Type, name, threads and precision of the device that did the work, e.g. of ``cuda:0``."""
    import torch

    kind = device.partition(":")[0]
    name = torch.cuda.get_device_name(device) if kind == "cuda" else _processor()
    return {"type": kind, "name": name, "threads": torch.get_num_threads(), "dtype": dtype}


def hash_outputs(folder: str | Path, paths: Iterable[str | Path]) -> dict[str, str]:
    """Relative path -> SHA-256 of every file given; folders stand for all files in them.

    Hidden files are no outputs: locks, and what a killed process left of a file.
    """
    folder = Path(folder)
    files: set[Path] = set()
    for path in map(Path, paths):
        path = path if path.is_absolute() or path.is_relative_to(folder) else folder / path
        files |= {p for p in path.rglob("*") if p.is_file()} if path.is_dir() else {path}
    names = {path.relative_to(folder): path for path in sorted(files)}
    return {
        name.as_posix(): hash_file(path)
        for name, path in names.items()
        if not any(part.startswith(".") for part in name.parts)
    }


def write_manifest(path: str | Path, manifest: dict[str, Any]) -> None:
    """Write manifest.json atomically. NumPy numbers become numbers; NaN and infinity null."""
    text = json.dumps(plain(manifest), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(path, text + "\n")


def read_manifest(folder: str | Path, *, name: str = "manifest.json") -> dict[str, Any]:
    """The manifest of a finished run; of a comparison under the name ``compare.json``.

    Raises:
        RunError: no folder, no manifest (the run is not finished), damaged or too new; or links
            or names in it lead out of the folder.
    """
    folder = Path(folder)
    path = folder / name
    if not is_utf8(str(folder)):
        raise RunError(f"the name of the run folder {folder} is not UTF-8: rename it")
    if not folder.is_dir():
        raise RunError(f"there is no run folder {folder}")
    refuse_links_out(folder)
    try:
        manifest = read_note(path)
    except FileNotFoundError:
        if name == "manifest.json" and (runs := sorted(folder.glob("seed-*/*/manifest.json"))):
            raise RunError(
                f"{folder} is a comparison, which has a run for each seed and method: give the "
                f"folder of one, e.g. {runs[0].parent}"
            ) from None
        if (folder / "config.yaml").is_file():
            raise RunError(f"the run in {folder} is not finished: {_go_on(folder)}") from None
        raise RunError(f"{folder} is not a staff run: it has no manifest.json") from None
    except ValueError:
        raise RunError(f"{path} is damaged: {_go_on(folder)}") from None
    if not isinstance(manifest, dict) or type(manifest.get("format")) is not int:
        raise RunError(f"{path} is not a staff manifest")
    if manifest["format"] > FORMAT:
        raise RunError(f"{path} was written by a newer version of staff; this is {__version__}")
    check_shape(manifest, path)
    for coreset in manifest.get("coresets") or []:
        named = coreset.get("path") if isinstance(coreset, dict) else coreset
        if not CORESET.fullmatch(str(named)):
            raise RunError(
                f"{path} names {named!r}, which is not a coreset of a run: it was edited; "
                f"{_go_on(folder)}"
            )
    return manifest


def check_selection(folder: str | Path, manifest: dict[str, Any]) -> None:
    """Raise `RunError` if selection.parquet is not the one that the manifest was written with."""
    path = Path(folder) / "selection.parquet"
    known = (manifest.get("files") or {}).get(path.name)
    if known is not None and path.is_file() and hash_file(path) != known:
        raise RunError(_not_the_file(path))


def check_parts(folder: str | Path, manifest: dict[str, Any], scores: Path) -> None:
    """Raise `RunError` unless the parts in `scores` are those that the manifest was written with.

    Names the first that is missing, damaged, of another run, or not of this one.
    """
    under = f"{scores.relative_to(folder).as_posix()}/"
    files = manifest.get("files") or {}
    named = {name: sha256 for name, sha256 in files.items() if name.startswith(under)}
    found = {f"{under}{path.name}": path for path in scores.glob("part-*.parquet")}
    for name in sorted(named.keys() | found.keys()):
        if name not in found:
            raise RunError(
                f"{Path(folder) / name} is missing, but is listed in manifest.json. Run staff "
                "select again with the same settings."
            )
        if hash_file(found[name]) != named.get(name):
            raise RunError(_not_the_file(found[name]))


def _not_the_file(path: Path) -> str:
    return (
        f"{path} is damaged or from another run: it is not the file listed in manifest.json. Run "
        "staff select again with the same settings."
    )


def read_comparison(folder: str | Path) -> dict[str, Any] | None:
    """What `staff demo` found beside its run; None for any other run."""
    path = Path(folder) / COMPARISON
    if not path.is_file():
        return None
    try:
        return read_note(path)
    except ValueError:
        raise RunError(f"{path} is damaged: run staff demo again") from None


def _go_on(folder: Path) -> str:
    """How to finish the run in a folder."""
    config = folder / "config.yaml"
    if not config.is_file():
        return "run the command that made it again"
    return f"resume with staff {written_by(config) or 'select'} --config {shlex.quote(str(config))}"


def plain(value: Any) -> Any:
    """JSON types only, whatever NumPy or paths are in it."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return plain(value.tolist())
    if isinstance(value, float) and (value != value or value in (float("inf"), -float("inf"))):
        return None
    return value


def _processor() -> str:
    """The processor's trade name, or the nearest thing the system tells."""
    try:
        if sys.platform == "linux":
            lines = Path("/proc/cpuinfo").read_text().splitlines()
            return next(x.partition(":")[2].strip() for x in lines if x.startswith("model name"))
        if sys.platform == "darwin":
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except (OSError, StopIteration):
        pass
    return platform.processor() or platform.machine()
