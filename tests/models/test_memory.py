import numpy as np
import pytest
import torch

from staff.errors import StaffError
from staff.models.memory import Halving, is_out_of_memory


def run(halving, batches, lengths, most):
    """Do batches on a machine that holds `most` tokens."""
    tried = []

    def work(places):
        size = len(places) * max(lengths[p] for p in places)
        tried.append(size)
        if size > most:
            raise torch.OutOfMemoryError
        return [10 * int(p) for p in places]

    done = list(halving.run(batches, lengths, work, describe=lambda p: f"row {p}"))
    return done, tried


def test_the_limit_halves_and_every_place_is_done_once():
    notes = []
    halving = Halving(64, note=notes.append)
    lengths = [8] * 8 + [2] * 8
    done, tried = run(halving, [np.arange(8), np.arange(8, 16)], lengths, most=20)
    assert tried == [64, 32, 16, 16, 16, 16, 16]  # 8 rows, 4, then 2 at a time; the short ones
    assert sorted(p for places, _ in done for p in places.tolist()) == list(range(16))
    assert all(result == [10 * p for p in places.tolist()] for places, result in done)
    assert notes == [
        "out of memory: continuing with batches of 32 tokens",
        "out of memory: continuing with batches of 16 tokens",
    ]
    # What was learnt stays: the next batches are split before they are tried.
    _, tried = run(halving, [np.arange(8)], lengths, most=20)
    assert tried == [16] * 4


def test_one_place_too_large_is_named():
    with pytest.raises(StaffError, match=r"out of memory on row 1 alone; lower --max-length"):
        run(Halving(99, note=print), [np.array([0, 1])], [3, 9], most=5)


def test_other_errors_pass_through():
    def work(_places):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        list(Halving(9, note=print).run([np.array([0])], [1], work, describe=str))


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError("CUDA"), True),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("shapes do not fit"), False),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemm`"),
            False,
        ),
    ],
)
def test_what_running_out_of_memory_looks_like(error, memory):
    assert is_out_of_memory(error) is memory
