"""TRL's SFTTrainer, without work whose result nobody uses, and with a count of what it trains on.

Imports torch and TRL: import it inside the function that needs it.
"""

import shutil
import time
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from datasets import Dataset
from peft.helpers import disable_input_dtype_casting
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, Trainer, set_seed
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTTrainer

from staff.data.batches import collate
from staff.errors import DiskFullError, is_disk_full
from staff.models.by_row import by_row
from staff.rng import keys_of_ids, stream_seed
from staff.training import checkpoints
from staff.training.callbacks import LossCurve, LossPoint
from staff.training.packed import pack, packing_of
from staff.training.parts import MULTIPLE, micro_batches
from staff.training.response_loss import goes_unmasked, padded_inputs, response_losses
from staff.training.share import Share
from staff.training.tokens import Tokens
from staff.types import IGNORE


def padding_of(model: Any) -> dict[str, Any]:
    """How `collate` is to pad for a model.

    In half precision to multiples of 16: matrix kernels are made for a shape when it first comes
    (oneDNN on the CPU; for hundreds of shapes that took longer than the products), and tensor
    cores want such shapes.
    """
    if model.dtype == torch.float32:
        return {}
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return {"multiple": MULTIPLE, "context": context}


class ResponseTrainer(SFTTrainer):
    """SFTTrainer whose loss needs logits at response positions only.

    Off CUDA, SFTTrainer projects every position onto the vocabulary and computes each
    step's entropy and token accuracy from it; here neither happens. The loss is the
    same: the mean over the batch's response tokens (`num_items_in_batch`). Where the model
    takes them (`packed`), the rows of a batch come without padding.

    `seen` [n] counts how often each row entered the loss, `response_tokens` the
    tokens that did: the caller compares them with what it handed over.

    curve: where the losses go. made_from: fingerprint of the training; without it no
    checkpoint is written.

    share: of the processes that train together this one's number, and how many they are. Each
    takes every k-th row of the same batches, and `Share.add` sums their gradients before each
    step, so that they stay alike and train as one process does, but for the order of the sum.

    micro_batch_size: rows of a batch, or of a share of it, that are computed at once; the
    gradients of a batch add up before its step, whatever it is. Each part is packed, or padded,
    by itself.
    """

    def __init__(
        self,
        *,
        tokens: Tokens,
        seed: int,
        curve: LossCurve,
        made_from: str | None = None,
        share: Share | None = None,
        micro_batch_size: int | None = None,
        **kwargs: Any,
    ):
        self.curve, self.made_from, self.share = curve, made_from, share
        self.micro_batch_size = micro_batch_size
        self.earlier_seconds, self.started = 0.0, time.monotonic()
        self.tokens = tokens
        self.padding = padding_of(kwargs["model"])
        self.unmasked = goes_unmasked(kwargs["model"])
        self.packing = packing_of(kwargs["model"])
        self.order = torch.Generator().manual_seed(seed)  # of the rows; own stream
        self.seen = np.zeros(len(tokens.lengths), np.int64)
        self.response_tokens = 0
        # By a hash of their ids: the order of the input must not matter.
        self.rows = np.argsort(keys_of_ids(tokens.ids), kind="stable")
        rows = Dataset.from_dict({"row": self.rows})
        config = kwargs["model"].config.get_text_config()
        if hasattr(config, "router_aux_loss_coef"):
            config.router_aux_loss_coef = 0.0  # the loss is the response tokens' and nothing else
        set_seed(kwargs["args"].seed)  # TRL up to 1.8 draws the adapter before it does this
        super().__init__(
            train_dataset=rows, data_collator=self._collate, processing_class=_no_text(), **kwargs
        )
        # On a quantised model TRL makes LoRA's weights bfloat16, in which Adam's steps are lost.
        _to_float32(self.model)
        adapted: Any = self.model
        self.trained = [p for p in adapted.parameters() if p.requires_grad]
        for module in adapted.modules():
            if "vision_tower" in module._modules:
                module.register_forward_pre_hook(_asks_for_no_images)
        self.remove_callback(PrinterCallback)  # prints to stdout when the HF bars are off
        self.add_callback(curve)

    @property
    def seconds(self) -> float:
        """Spent on training, with what it took up to the checkpoint it went on from."""
        return self.earlier_seconds + time.monotonic() - self.started

    def run(self, start: checkpoints.Checkpoint | None = None) -> None:
        """Train, from the beginning or from a checkpoint."""
        if start is not None:
            self._resume(start)
        self.started = time.monotonic()
        if start is not None and start.step == self.args.max_steps:
            self._load_from_checkpoint(str(start.folder))  # `train` would make a step beyond it
            return
        base: Any = self.model
        base.train()  # all of it: PEFT's wrapper alone is, around a model that was loaded to score
        # The model's own walks over all modules, a tenth of a small one's step.
        base.zero_grad = self._forget_gradients
        try:
            with (
                by_row(base.get_base_model()) if self.packing else nullcontext(),
                # PEFT makes LoRA's inputs float32, and autocast makes them half precision again:
                # time, and a copy for every layer that is kept for the backward pass.
                disable_input_dtype_casting(base, active=self.args.bf16 or self.args.fp16),
            ):
                self.train(resume_from_checkpoint=None if start is None else str(start.folder))
        finally:
            del base.zero_grad

    def _resume(self, start: checkpoints.Checkpoint) -> None:
        """Take up our own counts; the trainer does the same with its weights and states."""
        self.seen[:] = start.facts["seen"]
        self.response_tokens = int(start.facts["response_tokens"])
        self.earlier_seconds = float(start.facts["seconds"])
        self.curve.points[:] = [LossPoint(**point) for point in start.facts["losses"]]
        # One permutation an epoch was drawn; the trainer draws the current one's anew.
        for _ in range(start.step // -(-len(self.seen) // self.args.train_batch_size)):
            list(self._get_train_sampler())

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Read the adapter; the Trainer's own way is by the first GPU, wherever the model lies."""
        adapted: Any = self.model
        adapted.load_adapter(
            resume_from_checkpoint, "default", is_trainable=True, torch_device="cpu"
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The Trainer's own (TRL's adds a model card), whole or absent."""
        if self.made_from is None or (self.share and self.share.rank):
            return
        place, step = Path(str(self.args.output_dir)), self.state.global_step
        saving = place / ".checkpoint.partial"
        shutil.rmtree(saving, ignore_errors=True)
        self.args.output_dir = str(saving)
        try:
            Trainer._save_checkpoint(self, model, trial)
            if not all(map(is_zipfile, saving.glob("*/*.pt*"))):  # torch 2.9 does not see to that
                raise DiskFullError(place / f"checkpoint-{step}")
        except Exception as error:
            shutil.rmtree(saving, ignore_errors=True)
            # All that torch.save tells of a full disk, by how far it got.
            vague = any(word in str(error) for word in ("inline_container", "iostream"))
            if vague or is_disk_full(error):
                raise DiskFullError(place / f"checkpoint-{step}") from error
            raise
        finally:
            self.args.output_dir = str(place)
        checkpoints.seal(
            saving / f"checkpoint-{step}",
            place,
            step=step,
            made_from=self.made_from,
            facts={
                "seen": self.seen.tolist(),
                "response_tokens": self.response_tokens,
                "seconds": self.seconds,
                "losses": [asdict(point) for point in self.curve.points],
            },
        )
        saving.rmdir()

    def _collate(self, features: list[dict[str, int]]) -> dict[str, Any]:
        """Read the rows' tokens: parts, what the model takes one after another, and rows.

        rows: those of the whole batch, whatever this process's share of it.
        """
        rows = [feature["row"] for feature in features]
        mine = rows if self.share is None else self.share.of(rows)
        most = len(rows) if self.share is None else self.share.most(len(rows))
        parts = [
            self._inputs(part) if part else self._idle(rows[-1])
            for part in micro_batches(mine, size=self.micro_batch_size, most=most)
        ]
        return {"parts": parts, "rows": np.array(rows)}  # of NumPy: they stay on the CPU

    def _inputs(self, rows: list[int]) -> dict[str, Any]:
        """What the model is called with for these rows: labels int64 [B, T], or [1, N] packed."""
        examples = self.tokens.get(rows)
        if self.packing:
            return pack(examples, multiple=self.packing.multiple)
        return padded_inputs(collate(examples, **self.padding), unmasked=self.unmasked)

    def _idle(self, row: int) -> dict[str, Any]:
        """A row that is in no loss."""
        inputs = self._inputs([row])
        return {**inputs, "labels": torch.full_like(inputs["labels"], IGNORE)}

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedSampler:
        # Lengths as a plain list: looked up one at a time in a Dataset column, 10^5 rows
        # take seconds an epoch. The generator makes the order depend on the seed alone.
        return LengthGroupedSampler(
            self.args.train_batch_size,
            lengths=self.tokens.lengths[self.rows].tolist(),
            generator=self.order,
        )

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
        hooks: ExitStack | None = None,
    ) -> torch.Tensor:
        """Mean negative log-likelihood over the batch's response tokens.

        hooks: see `response_losses`.
        """
        how = self.packing
        sizes: Any = {"narrow": how.narrow, "multiple": how.responses} if how else {}
        losses, _ = response_losses(model, hooks=hooks, **sizes, **inputs)
        self.response_tokens += len(losses)
        return losses.sum() / (len(losses) if num_items_in_batch is None else num_items_in_batch)

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Forward and backward; then the gradients, and the loss, of all processes together."""
        if self.share is not None:  # the checkpoint has the generators of one of them alone
            name = f"step {self.state.global_step}, process {self.share.rank}"
            torch.manual_seed(stream_seed(self.args.seed, name) % 2**63)
        counted = self.response_tokens
        rows = inputs["rows"]
        np.add.at(self.seen, rows, 1)
        items = int(self.tokens.response_lengths[rows].sum())
        losses = torch.stack([self._backward(model, part, items) for part in inputs["parts"]])
        loss = losses.sum()
        if self.share is None:
            return loss
        trained = self.trained
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        figures = torch.stack([loss.float(), loss.new_tensor(self.response_tokens - counted)])
        *gradients_sum, figures = self.share.summed([*gradients, figures])
        for parameter, gradient, total in zip(trained, gradients, gradients_sum, strict=True):
            parameter.grad = gradient.copy_(total)
        self.response_tokens = counted + int(figures[1])
        return figures[0]

    def _backward(self, model: Any, inputs: dict[str, Any], items: int) -> torch.Tensor:
        """Forward and backward of some rows; their part of the mean over all `items` tokens.

        Without the Trainer's walk over all modules at every step, a tenth of a small model's time.
        """
        inputs = self._prepare_inputs(inputs)
        with ExitStack() as hooks:
            with self.compute_loss_context_manager():
                loss = self.compute_loss(model, inputs, num_items_in_batch=items, hooks=hooks)
            self.accelerator.backward(loss)
        return loss.detach()

    def _clip_grad_norm(self, model: Any) -> torch.Tensor:
        """The Trainer's own, of the parameters that have gradients."""
        self.accelerator.unscale_gradients()
        return torch.nn.utils.clip_grad_norm_(self.trained, self.args.max_grad_norm)

    def _forget_gradients(self, set_to_none: bool = True) -> None:
        """Nothing else has gradients."""
        for parameter in self.trained:
            parameter.grad = None

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Zero: counting all parameters at every step costs more than it tells."""
        return 0

    def _send_telemetry(self) -> None:
        """Nothing leaves the machine."""


def _to_float32(model: Any) -> None:
    """Keep what is trained in float32."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _asks_for_no_images(model: Any, _: Any) -> None:
    """Gemma 3 with images, before transformers 5.9, wants to be told in training where they are.

    There are none. This is the flag of what holds the model's parts, not of the parts.
    """
    model.training = False


def _no_text() -> PreTrainedTokenizerFast:
    """SFTTrainer insists on a tokenizer; our rows are tokens already, so an empty one will do.

    It defines no special token, so the trainer leaves the model's own alone.
    """
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({}, unk_token="")))
