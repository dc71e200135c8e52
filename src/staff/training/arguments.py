"""How the trainer is set up: on the model's device alone, in a fixed order, without reports.

Imports torch and TRL: import it inside the function that needs it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from trl import SFTConfig

from staff.training.alone import alone


class OneDevice(SFTConfig):
    """SFTConfig that trains where the model lies; of several GPUs its own is always the first."""

    place = None  # not annotated: no field of the dataclass

    @property
    def device(self) -> torch.device:
        """The model's device, once it is known."""
        return super().device if self.place is None else self.place

    def stay_on(self, device: torch.device) -> None:
        """Have the trainer, and accelerate beneath it, use this device."""
        self.place = device
        self._n_gpu = min(self.n_gpu, 1)  # more would mean DataParallel, which TRL refuses
        self.distributed_state.device = device


def training_arguments(
    *,
    folder: Path,
    model: Any,
    epochs: int,
    max_steps: int | None,
    batch_size: int,
    learning_rate: float,
    warmup: float,
    seed: int,
    gradient_checkpointing: bool,
) -> OneDevice:
    """The SFTConfig of a run: cosine with warm-up, no files, no reports, one device."""
    with alone(), _current_gpu_kept(model.device):
        args = OneDevice(
            output_dir=str(folder),
            num_train_epochs=epochs,
            max_steps=-1 if max_steps is None else max_steps,
            per_device_train_batch_size=batch_size,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=warmup,  # below 1: a share of all steps
            seed=seed,
            use_cpu=model.device.type == "cpu",
            bf16=model.dtype == torch.bfloat16,  # autocast; the LoRA weights are float32
            fp16=model.dtype == torch.float16,
            gradient_checkpointing=gradient_checkpointing,
            dataloader_pin_memory=model.device.type == "cuda",
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            max_length=None,  # our rows are already cut
            logging_steps=1,
            logging_nan_inf_filter=False,  # it would hide the first non-finite loss
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
    args.stay_on(model.device)
    return args


@contextmanager
def _current_gpu_kept(device: torch.device) -> Iterator[None]:
    """Have the current GPU stay what it is, of a model on one: transformers would take the first.

    It is what `--device auto` means, in each process of a team another one: what is loaded after
    the fine-tuning would lie on the first GPU in all of them. And CUDA keeps memory of a GPU for
    every process that it was once current in; in exclusive mode only one may have it.
    """
    if device.type != "cuda":
        yield
        return
    cuda: Any = torch.cuda
    set_device = cuda.set_device
    cuda.set_device = lambda _: None
    try:
        yield
    finally:
        cuda.set_device = set_device


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Have CUDA add up in a fixed order where it can; the CPU does already.

    It cannot in the backward pass of PyTorch's attention under a mask (memory-efficient attention),
    which rows of unlike length need, unless they go unmasked (`response_loss.goes_unmasked`).
    """
    if device.type != "cuda":
        yield
        return
    # Of several GPUs the model need not lie on the current one.
    here = nullcontext() if device.index is None else torch.cuda.device(device)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic  # has its attribute only when it is run
    filled = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = False  # takes time, and is read by nobody
    try:
        with here:
            yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        settings.fill_uninitialized_memory = filled
