"""Accelerators by name: their speed and memory, and the sources of these figures."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """Peak dense bfloat16 operations a second, memory in bytes, and where both are told.

    unconfirmed: which of the two (flops, memory) the source does not tell.
    """

    name: str
    flops: float
    memory: float
    source: str
    unconfirmed: tuple[str, ...] = ()


# Read there on 2026-11-25; the first cites its figures' data sheets, which could not be opened.
LIGHTNING = (
    "https://github.com/Lightning-AI/pytorch-lightning/blob/"
    "1526f8408e1f73baf1e3d10bb7eb2d08fc5de8e4/src/lightning/fabric/utilities/throughput.py"
)
MEMORY = "https://calwoo.github.io/notes/concepts/deep-learning-engineering/nvidia-gpu-hardware/"
HOPPER = "https://hmc-tech.com/gpu/nvidia-h100-vs-nvidia-h200-sxm-vs-nvidia-gb200"
# Dense tensor-core figures with float32 sums; makers often print twice as much, for sparse ones.
DEVICES = {
    device.name: device
    for device in (
        Device(
            "h200",
            989e12,
            141e9,
            "https://itkb.uw.cz/2026/06/nvidia-h200-vs-b300-precisions-cores.html",
        ),
        # The SXM module; the PCIe card is a quarter slower.
        Device(
            "h100-80gb",
            989e12,
            80e9,
            f"{LIGHTNING} https://lzwjava.github.io/nvidia-h200-gpu-specs-en",
        ),
        Device("h100-pcie", 756e12, 80e9, f"{LIGHTNING} {HOPPER}"),
        Device("a100-80gb", 312e12, 80e9, f"{LIGHTNING} {MEMORY}"),
        Device("a100-40gb", 312e12, 40e9, f"{LIGHTNING} {MEMORY}"),
        Device("l40s", 362e12, 48e9, "https://www.mullet.se/product.html?product_id=355414"),
        Device("l4", 121e12, 24e9, f"{LIGHTNING} https://hmc-tech.com/gpu/nvidia-l4-vs-nvidia-a2"),
        Device("a10", 125e12, 24e9, f"{LIGHTNING} {MEMORY}"),
        Device("rtx-4090", 165e12, 24e9, "https://waredb.com/processor/nvidia-geforce-rtx-4090"),
        Device("rtx-3090", 71e12, 24e9, MEMORY, unconfirmed=("flops",)),
    )
}
