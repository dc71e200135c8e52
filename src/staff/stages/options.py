"""The settings of a command, translated for the parts that do the work."""

import os
import platform
from pathlib import Path
from typing import Any

from staff.data.records import RecordOptions
from staff.errors import ConfigError
from staff.hashing import fingerprint, versions_of
from staff.models.placement import Spread, check_room
from staff.models.quantised import NONE, check_installed, library_of
from staff.models.trust import Trust
from staff.runs.cache import Cache
from staff.runs.facts import untested
from staff.runs.manifest import device_facts
from staff.runs.settings import parse_room
from staff.runs.shared_settings import Loads, Reads
from staff.team import current, in_team


def record_options(config: Reads) -> RecordOptions:
    """The settings that say how a record is read."""
    return RecordOptions(
        format=config.input_format,
        prompt_column=config.prompt_column,
        response_column=config.response_column,
        prompt_template=config.prompt_template,
        id_column=config.id_column,
        source_column=config.source_column,
        messages_column=config.messages_column,
        text_column=config.text_column,
    )


def trust_of(config: Loads) -> Trust:
    """What the settings allow the models to do."""
    return Trust(pickle=config.allow_pickle, code=config.trust_remote_code)


def spread_of(config: Any, *loaded: str | None) -> Spread | None:
    """Over what a model that is scored or evaluated is to be spread; None: one device.

    A GPU that is named by its number is the only one; so is that of each process of a team.

    loaded: the model, and its adapter. Each in each process writes below the folder that is asked
    for: files are called after the weights, and those of two models that are in use at once, or
    that a process reads while another one writes them, would be mixed up.
    """
    if getattr(config, "device_map", "none") == "none":
        return None
    # While a team works, torchrun's variables are put away: `staff.team.gathered`.
    one_gpu = in_team() or current() is not None or config.device.startswith("cuda:")
    room = parse_room(config.max_memory) if config.max_memory else {}
    folder = config.offload_folder
    if folder:
        folder = str(Path(folder) / fingerprint([*loaded, _who(config)])[:12])
    return Spread(room=room, folder=folder, one_gpu=one_gpu)


def _who(config: Any) -> Any:
    """Which of the processes this is that work on a run at once; the same at the next start.

    Ray's workers have no number that stays, but on their machine a GPU of their own, which Ray
    names to them so; those on CPUs only what they are to the system.
    """
    if team := current():
        return team.rank
    if getattr(config, "executor", "local") != "ray":
        return 0
    return [platform.node(), os.environ.get("CUDA_VISIBLE_DEVICES") or os.getpid()]


def cache_of(config: Any) -> Cache | None:
    """The cache that is asked for, made if it is not there."""
    return Cache(config.cache).open() if config.cache else None


def device_used(config: Any) -> dict[str, Any]:
    """Device and precision that the settings come to here; ConfigError if they cannot work."""
    from staff.models.device import check_attention, choose_device, choose_dtype

    team = current()
    if team and config.device.startswith("cuda:"):
        raise ConfigError(
            f"--device {config.device} would be the GPU of all processes of a machine: give cuda, "
            "and each takes its own"
        )
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    check_attention(getattr(config, "attention", "auto"), device=device, dtype=dtype)
    spread = spread_of(config)
    if spread and getattr(config, "executor", "local") == "local":  # Ray's workers lie elsewhere
        check_room(spread.room)
    facts = device_facts(str(device), str(dtype).removeprefix("torch."))
    if team and team.size > 1:
        facts["processes"] = team.size
    if found := untested(config, device.type):
        facts["untested"] = found
    return facts


def kernel_of(config: Any) -> dict[str, str]:
    """The attention kernel that was asked for, as results depend on it; empty for the default.

    Kernels differ by rounding, as devices do; but scores of two are not mixed in one table.
    """
    return {} if config.attention == "auto" else {"attention": config.attention}


def quantised_facts(quantize: str) -> dict[str, Any]:
    """What a fingerprint says of quantised weights; nothing where there are none."""
    if quantize == NONE:
        return {}
    check_installed(quantize)
    return {"quantize": quantize, "quantized by": versions_of(*library_of(quantize))}
