"""A model whose frozen weights are sharded over several processes (FSDP2), block by block.

Each process holds its share of every block; a block is gathered where it is computed and released
afterwards. LoRA layers attached later are whole in every process, and small.
Imports torch: import it inside the function that needs it.
"""

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from staff.errors import ConfigError, ModelError
from staff.models.device import choose_device, choose_dtype
from staff.models.load import load_model
from staff.models.trust import NO_TRUST, Trust
from staff.models.value_projection import find_blocks

BACKENDS = {"cuda": "nccl", "cpu": "gloo"}
# PyTorch's own, 10 minutes on GPUs, is over before the slowest machine has read a large model.
PATIENCE = timedelta(hours=3)


def load_sharded(
    path: str, *, dtype: str = "auto", device: str = "auto", trust: Trust = NO_TRUST, **how: Any
) -> Any:
    """`models.load.load_model` in every process of the group, and each keeps its share.

    The device never holds more of the weights than the shares and one block; the host holds the
    whole model, once a process, while they are read.

    Raises ConfigError for a device whose processes cannot exchange weights, and ModelError where
    the model has no stack of blocks or its share does not fit, beside what `load_model` raises.
    """
    place = choose_device(device)
    if place.type not in BACKENDS:
        raise ConfigError(f"--fsdp works on {' and '.join(BACKENDS)}, not on {place}: leave it out")
    name = str(choose_dtype(dtype, place)).removeprefix("torch.")
    model = load_model(path, dtype=name, device="cpu", trust=trust, **how)
    try:
        return shard(model, place)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{path} does not fit into the memory of {place}, sharded over {dist.get_world_size()} "
            "processes: start more of them, or give --quantize instead of --fsdp"
        ) from error


def shard(model: Any, place: torch.device) -> Any:
    """Divide a model on the CPU, frozen, among all processes; its shares go to `place`."""
    group = dist.new_group(backend=BACKENDS[place.type], timeout=PATIENCE)
    mesh = DeviceMesh.from_group(group, place.type)
    _, blocks, _ = find_blocks(model)
    for block in blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)
