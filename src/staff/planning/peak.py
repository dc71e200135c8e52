"""Peak memory of a piece of work: of its GPU, or else of the whole process."""

import os
import resource
import sys
from pathlib import Path

LINUX = Path("/proc/self")


def reset(device: str) -> None:
    """Forget the peak so far, where that can be done; elsewhere peaks only grow."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        (LINUX / "clear_refs").write_text("5")
    except OSError:  # another system, or not allowed
        return


def read(device: str) -> int:
    """Bytes at the highest point since `reset`: reserved on a GPU, resident for the CPU."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_reserved(device)
    try:
        lines = (LINUX / "status").read_text().splitlines()
        [kilobytes] = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
        return int(kilobytes) << 10
    except (OSError, ValueError):
        unit = 1 if sys.platform == "darwin" else 1 << 10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def available(device: str) -> int | None:
    """Bytes that the device has in all; None where that is not told."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_properties(torch.device(device)).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
