"""Models in memory: saved as folders, because a run identifies models by contents it can hash."""

import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from staff.errors import ModelError, RunError
from staff.models.folder import check_model_folder, first_line, model_hash


def is_loaded(role: str, model: Any) -> bool:
    """Whether this is a loaded model with its tokenizer; False for a path, a Hub id or None.

    Raises:
        ModelError: it is something else, or cannot be saved as it is.
    """
    if model is None or isinstance(model, str | Path):
        return False
    pair = isinstance(model, tuple | list) and len(model) == 2
    if not pair or not all(hasattr(part, "save_pretrained") for part in model):
        raise ModelError(
            f"{role} is a {type(model).__name__}: give a path, a Hub id, or a loaded model with "
            "its tokenizer, (model, tokenizer)"
        )
    if hasattr(model[0], "peft_config"):
        raise ModelError(
            f"{role} has an adapter on it: merge it (model = model.merge_and_unload()), or save it "
            "and give its folder with adapter"
        )
    if getattr(model[0], "is_quantized", False):
        raise ModelError(f"{role} is quantised: give the path of the model it was made from")
    return True


def keep_model(
    model: Any, tokenizer: Any, folder: Path, *, fingerprint: Callable[[Path], str]
) -> bool:
    """Save a loaded model and its tokenizer where a run can read them, now and later.

    A folder of the same is left as it is. Returns whether there was none.

    fingerprint: of all that decides the ids of a folder's tokenizer, its chat template included.

    Raises:
        RunError: the folder is there and holds something else.
        ModelError: it cannot be saved, or what was saved is no causal LM with a tokenizer.
    """
    from staff.models.load import quiet

    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".", suffix=".part") as scratch:
        part = Path(scratch) / folder.name
        try:
            with quiet():
                model.save_pretrained(part)
                tokenizer.save_pretrained(part)
        except (ValueError, NotImplementedError) as error:  # odd settings, or no weights here
            why = first_line(error).removeprefix("- ").rstrip(".")
            raise ModelError(
                f"the {type(model).__name__} in memory cannot be saved: {why}; or give a path"
            ) from error
        check_model_folder(str(part))
        for file in part.glob("*.safetensors"):  # since 0.8 for their owner alone
            shutil.copymode(part / "config.json", file)
        if not folder.exists():
            part.replace(folder)
            return True
        if not folder.is_dir() or _differs(part, folder, lambda path: model_hash(str(path))):
            raise RunError(
                f"{folder} contains another model: choose another folder with out, or remove it"
            )
        if _differs(part, folder, fingerprint):
            raise RunError(
                f"{folder} contains this model with another tokenizer or chat template: choose "
                "another folder with out, or remove it"
            )
    return False


def _differs(one: Path, other: Path, identity: Callable[[Path], str]) -> bool:
    try:
        return identity(one) != identity(other)
    except ModelError:
        return True
