"""Whether another machine has the same models, adapter and versions as the run."""

import platform
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from staff.errors import ModelError
from staff.hashing import versions_of
from staff.models.quantised import NONE, check_installed
from staff.models.trust import Trust


def this_machine() -> str:
    """What tells machines apart, also those of one name: by their starts, where Linux does."""
    drawn = Path("/proc/sys/kernel/random/boot_id")
    with suppress(OSError):
        return f"{platform.node()} {drawn.read_text(encoding='ascii').strip()}"
    return platform.node()


def everywhere(model: str, *, trust: Trust) -> str:
    """A model's name that is the same one in every process, wherever it works and however late.

    A folder's whole path; a Hub id with the commit that this process has.
    """
    from staff.models.folder import revision_of

    if Path(model).is_dir():
        return str(Path(model).absolute())
    return pinned(model, revision_of(model, trust=trust))


def pinned(model: str, revision: str | None) -> str:
    """A Hub id with this commit, whatever is uploaded meanwhile."""
    return f"{model.partition('@')[0]}@{revision}"


@cache  # once a process, however many orders
def check_model_here(model: str, adapter: str | None, known: str, trust: Trust) -> None:
    """Raise `ModelError` if model or adapter is another one here than where the run was started."""
    _check_model(model, adapter, known, trust, where=platform.node())


def _check_model(model: str, adapter: str | None, known: str, trust: Trust, *, where: str) -> None:
    from staff.models.folder import check_adapter, model_hash

    if adapter is not None:
        check_adapter(adapter, trust=trust)
    if model_hash(model, adapter, trust=trust) != known:
        both = model if adapter is None else f"{model} with {adapter}"
        raise ModelError(
            f"{both} is not the same on {where} as where the run was started: give a path that is "
            "the same model on all machines"
        )


def check_versions(wanted: Mapping[str, str], *, where: str) -> None:
    """Raise `ModelError` if these libraries have other versions here than where it was started."""
    for name, version in wanted.items():
        if (found := versions_of(name)[name]) != version:
            raise ModelError(
                f"{where} has {name} {found}, and the run was started with {version}: install the "
                "same versions on all machines"
            )


def check_same(
    made_from: Mapping[str, Any], *, model: str, adapter: str | None, trust: Trust
) -> None:
    """Raise `ModelError` if this machine would give other scores than those asked for.

    That is, where it has another model, adapter or version of a library.
    """
    check_installed(made_from.get("quantize", NONE))
    versions = {**made_from["versions"], **made_from.get("quantized by", {})}
    check_versions(versions, where="a worker")
    _check_model(model, adapter, made_from["model_hash"], trust, where="a worker")
