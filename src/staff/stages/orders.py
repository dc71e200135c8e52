"""What the leading process sends to the others: a stage and its settings, as plain data."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from staff.data.store import TokenStore
from staff.errors import RunError
from staff.hashing import versions_of
from staff.models.quantised import check_installed, library_of
from staff.runs.config import FinetuneConfig, ScoreConfig, SelectConfig
from staff.stages.elsewhere import check_model_here, check_versions, this_machine
from staff.stages.options import device_used, trust_of
from staff.training.checkpoints import LIBRARIES


def order(
    act: str,
    config: Any,
    store: TokenStore,
    out: Path,
    *,
    model: str,
    model_hash: str,
    quantize: str,
    adapter: str | None = None,
) -> dict[str, Any]:
    """What every order says: `act` on these rows with this model, the result into `out`.

    In the precision of this process: `--dtype auto` may come to another one on another machine.

    model_hash: of the model, with the adapter if there is one.
    """
    settings = config.model_copy(update={"dtype": device_used(config)["dtype"]})
    return {
        "act": act,
        "command": config.command,
        "config": settings.model_dump(mode="json"),
        "host": this_machine(),
        "versions": versions_of("staff-coreset", *LIBRARIES, *library_of(quantize)),
        "tokens": str(store.path.absolute()),
        "tokens_hash": store.content_hash,
        "out": str(out.absolute()),
        "model": model,
        "adapter": adapter,
        "model_hash": model_hash,
        "quantize": quantize,
    }


def opened(order: Mapping[str, Any]) -> tuple[Any, TokenStore, Path]:
    """Settings, rows and the result's place of an order, in the process that is told.

    Raises:
        ModelError: the model, its adapter or a library's version is another one on this machine.
        ConfigError: the library that quantises is not there. RunError: the run folder is another.
    """
    kinds = (SelectConfig, ScoreConfig, FinetuneConfig)
    kind = {c.command: c for c in kinds}[order["command"]]
    config = kind.model_validate(order["config"])
    tokens = Path(order["tokens"])
    if order["host"] == this_machine():
        return config, TokenStore.open(tokens), Path(order["out"])
    check_installed(order["quantize"])
    check_versions(order["versions"], where=platform.node())
    if not tokens.is_file():
        raise RunError(
            f"{tokens} does not exist on {platform.node()}: the run folder must be on a file "
            "system that all machines share, at the same path"
        )
    store = TokenStore.open(tokens)
    if store.content_hash != order["tokens_hash"]:
        raise RunError(
            f"{tokens} is not the same file on {platform.node()} as where the run was started: the "
            "run folder must be on a file system that all machines share"
        )
    check_model_here(order["model"], order["adapter"], order["model_hash"], trust_of(config))
    return config, store, Path(order["out"])
