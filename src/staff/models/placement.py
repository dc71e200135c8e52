"""Where a model's weights are: on one device, or spread over GPUs, host memory and disk."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from staff.errors import ConfigError

if TYPE_CHECKING:
    import torch


FILLED = 0.9  # of a GPU's free memory: what is computed needs room beside the weights


@dataclass(frozen=True, slots=True)
class Spread:
    """A model that is spread over what there is: GPUs first, then host memory, then disk.

    room: most bytes that each may hold of it, by ``cpu`` or a GPU's number; others nine tenths of
    what is free. folder: for weights that have to be written again to be read from disk as they are
    needed (pickled ones, experts that are stored apart); others are read from the model's own
    files. one_gpu: of the GPUs only that which the model is loaded on.
    """

    room: Mapping[int | str, int] = field(default_factory=dict)
    folder: str | None = None
    one_gpu: bool = False

    def arguments(self, place: "torch.device") -> dict[str, Any]:
        """What `from_pretrained` is to be told; place: as `device.choose_device` says."""
        free = self._free(place)
        room = free | {
            name: most
            for name, most in self.room.items()
            if name in free or not (self.one_gpu or place.type == "cpu")
        }
        return {"device_map": "auto", "max_memory": room, "offload_folder": self.folder}

    def _free(self, place: "torch.device") -> dict[int | str, int]:
        """Bytes that each device may hold: nine tenths of what is free.

        A GPU that is not to be used is not asked either: that alone would take memory of it.
        """
        import psutil
        import torch

        if place.type == "cuda" and self.one_gpu:
            unused = torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)
            free: dict[int | str, int] = {place.index: torch.cuda.mem_get_info(place)[0] + unused}
        elif place.type == "cpu":
            free = {}
        else:
            from transformers.integrations.accelerate import get_max_memory

            # Of the host's memory it leaves a tenth itself, of a GPU's only where told of none.
            return {
                name: most if name == "cpu" else int(FILLED * most)
                for name, most in get_max_memory().items()
            }
        free["cpu"] = psutil.virtual_memory().available
        return {name: int(FILLED * most) for name, most in free.items()}


def check_room(room: Mapping[int | str, int]) -> None:
    """Raise `ConfigError` for room on a GPU that is not here; it would be left out of account."""
    import torch

    count = torch.cuda.device_count()
    for name in room:
        if name != "cpu" and int(name) >= count:
            raise ConfigError(
                f"--max-memory names gpu{name}, which does not exist here (CUDA numbers GPUs from "
                "gpu0)"
            )


def device_of(module: Any) -> "torch.device":
    """Where a layer computes: its weight may lie elsewhere until it is needed."""
    import torch

    execution = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return module.weight.device if execution is None else torch.device(execution)
