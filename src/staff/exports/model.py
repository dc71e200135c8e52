"""The model that an export's settings name: the run's target, or another."""

from dataclasses import replace
from pathlib import Path

from staff.errors import ConfigError, ModelError
from staff.exports.coreset import Coreset
from staff.exports.trainer import Model
from staff.models.folder import check_model_folder, context_of, read_config
from staff.models.trust import Trust
from staff.notes import read_object

# Tokens that a trainer's own template may add to a row: a system message, an empty thought a turn.
MARGIN, STEP = 256, 64
OTHERS = 4  # times the tokens of the run's target that another tokenizer may make of a row
# What ends a turn in chat templates that hold the token on the left. In some it is not the
# tokenizer's end of sequence: in Gemma's and Phi's, and in base models' with a template of ChatML.
TURN_ENDS = {
    "<|start_header_id|>": "<|eot_id|>",
    "<start_of_turn>": "<end_of_turn>",
    "<|im_start|>": "<|im_end|>",
    "<|end|>": "<|end|>",
}


def trained_model(coreset: Coreset, given: str | None) -> Model:
    """The model that is to be tuned: `given`, or the target of the run.

    Raises:
        ConfigError: the run had no target, or had it in a folder that is not to be found from
            here, and none is given. ModelError: the one that is given is a folder without a
            model, or not there.
    """
    facts = coreset.manifest.get("models", {}).get("target") or {}
    named = facts.get("path") or coreset.manifest["config"].get("target")
    if given is not None:
        check_model_folder(given, trust=Trust(pickle=True))  # no weight is opened here
        return _model(given, None, counted=given == named)
    if not isinstance(named, str):
        raise ConfigError("the run was given no target: say which model to tune, --model MODEL")
    revision = facts.get("revision")
    folder = Path(named)
    # Of a Hub model a run notes the commit. A trainer would fetch what goes by that name there.
    if facts.get("hash") and not revision and not folder.is_absolute() and not folder.is_dir():
        raise ConfigError(
            f"the run's target was the folder {named}, which is not here: run staff export where "
            "the run was made, or say where the model lies, --model MODEL"
        )
    return _model(named, revision if isinstance(revision, str) else None, counted=True)


def row_length(coreset: Coreset, model: Model, *, wraps: bool) -> int | None:
    """Tokens at which a trainer may cut a row: no row of the coreset is cut that the run did not.

    wraps: the trainer adds to what was counted. None where neither the rows' lengths nor a limit
    is known.
    """
    limits = [model.context] if model.context else []
    if coreset.max_length:
        limits.append(coreset.max_length + (MARGIN if wraps else 0))
    if coreset.longest is not None:
        longest = coreset.longest * (1 if model.counted else OTHERS)
        limits.append(-(-(longest + MARGIN) // STEP) * STEP)
    return min(limits, default=None)


def all_fit(coreset: Coreset, model: Model, length: int | None, *, wraps: bool) -> bool:
    """Whether it is certain that a trainer which cuts rows at `length` cuts none of the coreset."""
    if length is None or coreset.longest is None:
        return False
    longest = coreset.longest * (1 if model.counted else OTHERS)
    return longest + (MARGIN if wraps else 0) < length


def _model(name: str, revision: str | None, *, counted: bool) -> Model:
    folder = Path(name)
    if folder.is_dir():  # the folder of the export is another
        return _of_folder(Model(str(folder.absolute()), counted=counted), folder)
    if folder.is_absolute():
        return Model(name, counted=counted)
    repository, _, asked = name.partition("@")
    model = Model(repository, revision or asked or None, counted)
    cached = _cached(model)
    return model if cached is None else _of_folder(model, cached)


def _of_folder(model: Model, folder: Path) -> Model:
    """A model and what its folder says of it."""
    try:
        kind, context = str(read_config(folder)["model_type"]), context_of(folder)
    except ModelError:  # a manifest's: it may have been moved or emptied since
        return model
    template = _template(folder)
    end = _turn_end(folder, template)
    return replace(model, kind=kind, context=context, template=template, turn_end=end)


def _cached(model: Model) -> Path | None:
    """The folder of a Hub model that was downloaded before; nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(model.name, "config.json", revision=model.revision)
    except (OSError, ValueError):  # a manifest's: it may be no name of the Hub's
        return None
    return Path(found).parent if isinstance(found, str) else None


def _template(folder: Path) -> str | None:
    """The tokenizer's chat template, of several the one it takes by default; empty: none.

    None where the tokenizer is not there: the Hub's cache may hold no more than the config.
    """
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    for name in ("chat_template.json", "tokenizer_config.json"):
        found = read_object(folder / name).get("chat_template")
        if isinstance(found, list):
            several = [each for each in found if isinstance(each, dict)]
            named = {each.get("name"): each.get("template") for each in several}
            found = named.get("default", next(iter(named.values()), None))
        if isinstance(found, str) and found:
            return found
    there = any((folder / name).is_file() for name in ("tokenizer_config.json", "tokenizer.json"))
    return "" if there else None


def _turn_end(folder: Path, template: str | None) -> str | None:
    if not template:
        return None
    for held, end in TURN_ENDS.items():
        if held in template and end in _added_tokens(folder):
            return end
    return None


def _added_tokens(folder: Path) -> set[str]:
    """Tokens that a tokenizer takes whole wherever they stand."""
    added = read_object(folder / "tokenizer.json").get("added_tokens")
    listed = added if isinstance(added, list) else []
    return {str(each.get("content")) for each in listed if isinstance(each, dict)}
