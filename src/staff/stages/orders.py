"""What the leading process sends to the others: a stage and its settings, as plain data."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from staff.data.store import TokenStore
from staff.runs.config import FinetuneConfig, ScoreConfig, SelectConfig
from staff.stages.elsewhere import check_model_here
from staff.stages.options import trust_of


def order(
    act: str, config: Any, store: TokenStore, out: Path, *, model: str, model_hash: str
) -> dict[str, Any]:
    """What every order says: `act` on these rows with this model, the result into `out`."""
    return {
        "act": act,
        "command": config.command,
        "config": config.model_dump(mode="json"),
        "host": platform.node(),
        "tokens": str(store.path.absolute()),
        "out": str(out.absolute()),
        "model": model,
        "model_hash": model_hash,
    }


def opened(order: Mapping[str, Any]) -> tuple[Any, TokenStore, Path]:
    """Settings, rows and the result's place of an order, in the process that is told.

    Raises:
        ModelError: the model is another one on this machine.
    """
    kinds = (SelectConfig, ScoreConfig, FinetuneConfig)
    kind = {c.command: c for c in kinds}[order["command"]]
    config = kind.model_validate(order["config"])
    if order["host"] != platform.node():
        check_model_here(order["model"], order["model_hash"], trust_of(config))
    return config, TokenStore.open(Path(order["tokens"])), Path(order["out"])
