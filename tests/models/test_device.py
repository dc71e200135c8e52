from contextlib import nullcontext

import pytest
import torch

from staff.errors import ConfigError
from staff.models.device import check_attention, choose_device, choose_dtype


def test_flash_attention_is_refused_where_it_cannot_work():
    """Before transformers looks for it, and would fetch its code from the Hub."""
    cpu, gpu = torch.device("cpu"), torch.device("cuda:0")
    for name, device, dtype, said in (
        ("flash_attention_2", cpu, torch.bfloat16, "needs a GPU"),
        ("flash_attention_2", gpu, torch.float32, "does not support float32: add --dtype bfloat16"),
        ("flash_attention_2", gpu, torch.bfloat16, "needs the package flash-attn,"),
        ("flash_attention_3", gpu, torch.float16, "needs the package flash-attn-3,"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_attention(name, device=device, dtype=dtype)
    for name in ("auto", "sdpa", "eager"):
        check_attention(name, device=cpu, dtype=torch.float32)


def test_auto_dtype_is_bfloat16_only_where_the_cpu_computes_it(monkeypatch):
    cpu = torch.device("cpu")
    for able, expected in [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx2": True}, torch.float32),
    ]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able, raising=False)
        assert choose_dtype("auto", cpu) == expected
    assert choose_dtype("float16", cpu) == torch.float16


@pytest.mark.parametrize("emulated", [False, True])
def test_auto_dtype_is_bfloat16_only_where_the_gpu_computes_it(monkeypatch, emulated):
    asked = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext(asked.append(device)))
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or not emulated,
    )
    expected = torch.float32 if emulated else torch.bfloat16
    assert choose_dtype("auto", torch.device("cuda:1")) == expected
    assert asked == [torch.device("cuda:1")]


def test_a_gpu_without_a_number_is_the_current_one(monkeypatch):
    """Threads that read weights have a current one of their own: the first."""
    monkeypatch.setattr(torch, "empty", lambda *size, device: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda:3")
    assert choose_device("cuda:1") == torch.device("cuda:1")


def test_names_of_dtypes_and_devices():
    with pytest.raises(ConfigError, match="did you mean 'float32'"):
        choose_dtype("float23", torch.device("cpu"))
    with pytest.raises(ConfigError, match="not available here"):
        choose_device("gpu")
    assert choose_device("cpu").type == "cpu"
