"""A model without weights: its modules and their sizes, built from its config."""

from typing import Any

from staff.errors import ModelError
from staff.models.folder import first_line, local_folder, not_loaded_as_causal
from staff.models.trust import NO_TRUST, Trust, code_not_run, needs_code


def build_skeleton(path: str, *, weights: bool = True, trust: Trust = NO_TRUST) -> Any:
    """The causal LM of a folder or Hub id on torch's meta device: a second, no memory.

    weights: whether they have to be there as well (a Hub model's are fetched).

    Raises ModelError when its config is no model's.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = local_folder(path, weights=weights, trust=trust)
    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust.code)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust.code)
        model.tie_weights()  # transformers 5.0 leaves them apart on this device
    except Exception as error:  # whatever is wrong with the files, the user must see which
        if needs_code(error, folder, trust):
            raise code_not_run(path, folder) from error
        if refusal := not_loaded_as_causal(error, path, folder):
            raise refusal from error
        raise ModelError(f"{path} cannot be built from its config: {first_line(error)}") from error
    return model.eval()
