"""The device of a plan: its name, the bytes per weight, and the memory for weights on it."""

from dataclasses import asdict
from typing import Any

from staff.errors import ConfigError
from staff.models.device import choose_device
from staff.planning import peak
from staff.planning.devices import DEVICES, Device
from staff.runs.plan_config import PlanConfig
from staff.runs.settings import parse_room
from staff.stages.options import device_used

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def device_of(config: PlanConfig) -> Device | None:
    """The table's device; None where the plan is of this machine, or of none that is known."""
    found = DEVICES.get(config.device.lower())
    if found and config.probe:
        raise ConfigError(
            f"--probe times this machine, not {found.name}: leave out --device, or give cpu or cuda"
        )
    if found or config.device in ("auto", "cpu", "mps") or config.device.startswith("cuda"):
        return found
    raise ConfigError(
        f"device {config.device!r} is not in the table: give one of {', '.join(DEVICES)}, or "
        "leave out --device and measure on this machine with --probe"
    )


def number_bytes(config: PlanConfig, device: Device | None) -> int:
    """Bytes of a weight: as the settings come to here, or bfloat16 on a device of the table."""
    if device is not None:
        return DTYPE_BYTES["bfloat16" if config.dtype == "auto" else config.dtype]
    return DTYPE_BYTES[device_used(config)["dtype"]]


def on_cpu(config: PlanConfig, device: Device | None) -> bool:
    """Whether the plan is of a CPU."""
    return device is None and choose_device(config.device).type == "cpu"


def room_of(config: PlanConfig, device: Device | None) -> int | None:
    """Most bytes of a spread model that --max-memory leaves to one device, the largest of them."""
    if config.device_map == "none" or config.max_memory is None:
        return None
    room, place = parse_room(config.max_memory), None
    if device is None:
        place = choose_device(config.device)
        if place.type == "cpu":
            return room.get("cpu")
    named = {name: most for name, most in room.items() if name != "cpu"}
    if place is not None and place.index is not None:
        return named.get(place.index)
    return max(named.values(), default=None)


def device_facts(config: PlanConfig, device: Device | None, size: int) -> dict[str, Any]:
    """What the plan says of the device: its figures where the table has them, and their source."""
    bits = 8 * size
    if device is not None:
        facts = {**asdict(device), "unconfirmed": list(device.unconfirmed)}
        return {
            **facts,
            "room": room_of(config, device),
            "utilisation": config.utilisation,
            "bits": bits,
            "probe": False,
        }
    name = str(choose_device(config.device))
    return {
        "name": name,
        "flops": None,
        "memory": peak.available(name),
        "room": room_of(config, device),
        "source": None,
        "unconfirmed": [],
        "utilisation": None,
        "bits": bits,
        "probe": config.probe,
    }
