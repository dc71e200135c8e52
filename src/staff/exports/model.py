"""The model that an export's settings name: the run's target, or another."""

import json
from pathlib import Path
from typing import Any

from staff.errors import ConfigError, ModelError
from staff.exports.coreset import Coreset
from staff.exports.trainer import Model
from staff.models.folder import check_model_folder, context_of

MARGIN = 64  # tokens that a trainer's own template may add to a row


def trained_model(coreset: Coreset, given: str | None) -> Model:
    """The model that is to be tuned: `given`, or the target of the run.

    Raises:
        ConfigError: the run had no target, and none is given. ModelError: the one that is given
            is a folder without a model, or not there.
    """
    facts = coreset.manifest.get("models", {}).get("target") or {}
    if given is not None:
        check_model_folder(given)
        return _model(given, None)
    named = facts.get("path") or coreset.manifest["config"].get("target")
    if not isinstance(named, str):
        raise ConfigError("the run was given no target: say which model to tune, --model MODEL")
    revision = facts.get("revision")
    return _model(named, revision if isinstance(revision, str) else None)


def row_length(coreset: Coreset, model: Model) -> int | None:
    """Tokens at which a trainer may cut a row: no row of the coreset is cut that the run did not.

    None where neither the rows' lengths nor a limit is known.
    """
    limits = [limit for limit in (coreset.max_length, model.context) if limit]
    if coreset.longest is not None:
        limits.append(-(-(coreset.longest + MARGIN) // MARGIN) * MARGIN)
    return min(limits, default=None)


def _model(name: str, revision: str | None) -> Model:
    folder = Path(name)
    if folder.is_dir():  # the folder of the export is another
        where = str(folder.absolute())
        try:
            return Model(where, None, context_of(folder), _has_template(folder))
        except ModelError:  # a manifest's: it may have been moved or emptied since
            return Model(where)
    repository, _, asked = name.partition("@")
    if folder.is_absolute():
        return Model(name)
    return Model(repository, revision or asked or None)


def _has_template(folder: Path) -> bool:
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    try:
        settings: Any = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(settings, dict) and bool(settings.get("chat_template"))
