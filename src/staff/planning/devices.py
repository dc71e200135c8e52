"""Accelerators by name: what their makers say of them."""

from dataclasses import dataclass

from staff.errors import ConfigError, unknown_name


@dataclass(frozen=True, slots=True)
class Device:
    """Peak dense bfloat16 operations a second, memory in bytes, and where both are told."""

    name: str
    flops: float
    memory: float
    source: str


NVIDIA = "https://www.nvidia.com/en-us/data-center"
ADA = "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
AMPERE = (
    "https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf"
)
# Dense tensor-core figures with float32 sums; makers often print twice as much, for sparse ones.
DEVICES = {
    device.name: device
    for device in (
        Device("h200", 989e12, 141e9, f"{NVIDIA}/h200/"),
        Device("h100-80gb", 989e12, 80e9, f"{NVIDIA}/h100/"),
        Device("a100-80gb", 312e12, 80e9, f"{NVIDIA}/a100/"),
        Device("a100-40gb", 312e12, 40e9, f"{NVIDIA}/a100/"),
        Device("l40s", 362e12, 48e9, f"{NVIDIA}/l40s/"),
        Device("l4", 121e12, 24e9, f"{NVIDIA}/l4/"),
        Device("a10", 125e12, 24e9, f"{NVIDIA}/products/a10-gpu/"),
        Device("rtx-4090", 165e12, 24e9, ADA),
        Device("rtx-3090", 71e12, 24e9, AMPERE),
    )
}


def find_device(name: str) -> Device:
    """The device of that name; ConfigError lists those that are known."""
    found = DEVICES.get(name.lower())
    if found is None:
        raise ConfigError(unknown_name("device", name, DEVICES))
    return found
