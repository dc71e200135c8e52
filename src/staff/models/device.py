"""Where and how a model computes: its device, its precision, its attention kernel."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from staff.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16", "float16")
FLASH = {  # attention kernels that come in a package of their own
    "flash_attention_2": "flash-attn",
    "flash_attention_3": "flash-attn-3",
    "flash_attention_4": "flash-attn-4",
}


def choose_device(name: str = "auto") -> "torch.device":
    """The device of that name; auto takes CUDA, then Apple's MPS, then the CPU.

    Of several GPUs auto and ``cuda`` mean the current one, by its number: libraries hold a device
    without one for another than that with it.

    Raises ConfigError for a device that is unknown or not there.
    """
    import torch

    if name == "auto" and torch.cuda.is_available():
        device = torch.device("cuda")
    elif name == "auto":
        device = torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    else:
        try:
            device = torch.device(name)
            torch.empty(0, device=device)
        except Exception as error:  # torch raises AssertionError, RuntimeError, … by backend
            raise ConfigError(
                f"device {name!r} is not available here; use --device cpu or auto"
            ) from error
    if device == torch.device("cuda"):
        # The current one is a thread's own: those that read weights would put them on the first.
        return torch.device("cuda", torch.cuda.current_device())
    return device


def choose_dtype(name: str, device: "torch.device") -> "torch.dtype":
    """The torch dtype of that name; auto is bfloat16 where the device computes it, else float32."""
    import torch

    if name not in DTYPES:
        raise ConfigError(unknown_name("dtype", name, DTYPES))
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        with torch.cuda.device(device):  # older than Ampere they only emulate it, slowly
            computes = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if computes else torch.float32
    if device.type == "cpu" and _cpu_computes_bf16():
        return torch.bfloat16
    return torch.float32


def check_attention(name: str, *, device: "torch.device", dtype: "torch.dtype") -> None:
    """Raise ConfigError for a kernel that cannot work here: device, precision, package.

    transformers itself would fetch the code of a kernel that is not installed from the Hub.
    """
    import torch

    if name not in FLASH:
        return
    if device.type != "cuda":
        raise ConfigError(f"--attention {name} needs a GPU (CUDA), not {device}; use sdpa or auto")
    if dtype not in (torch.bfloat16, torch.float16):
        raise ConfigError(f"--attention {name} does not support float32: add --dtype bfloat16")
    try:
        version(FLASH[name])
    except PackageNotFoundError:
        raise ConfigError(
            f"--attention {name} needs the package {FLASH[name]}, which is not installed; use sdpa "
            "or auto"
        ) from None


def caps_attention(config: Any) -> bool:
    """Whether a model's attention caps its logits (Gemma 2); PyTorch's own, sdpa, does not.

    transformers 5.0 to 5.20 takes sdpa for it all the same, and computes without the cap.
    """
    return getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None


def _cpu_computes_bf16() -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 (AVX512-BF16 or AMX).

    torch 2.9 cannot tell, and so computes in float32 unless told otherwise.
    """
    import torch

    if not hasattr(torch.cpu, "get_capabilities"):
        return False
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
