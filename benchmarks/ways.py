"""Several ways to the same numbers: the gradient norm of one layer's weight, for every row.

Each takes a causal LM of the Llama shape and batches padded on the right, and returns a function
that computes the norms float64 [n] of all rows, in the order of the batches. The layer is the last
block's value projection, as in `staff`; the loss is a row's mean over its response tokens. Each is
set up as favourably as its interface allows: no padding mask (a causal model never looks at what
comes after a token), and only that weight requires a gradient, so that autograd stops there. Each
leaves the model as it found it, except `opacus_way`, whose hooks stay.
"""

import io
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from staff.data.batches import Batch
from staff.models.value_projection import find_value_projection
from staff.scores.effort import Scorer
from staff.types import Floats

Run = Callable[[], Floats]


def staff_way(model: Any, batches: list[Batch]) -> Run:
    scorer = Scorer(model, signals=())
    return lambda: np.concatenate([scorer(batch)["effort"] for batch in batches])


def one_row_way(model: Any, batches: list[Batch]) -> Run:
    """The model's own loss of one unpadded row at a time, and autograd."""
    weight = layer(model)[1]

    def run() -> Floats:
        found = []
        for batch in batches:
            for ids, labels, mask in zip(*tensors(model, batch), batch.attention_mask, strict=True):
                length = int(mask.sum())
                loss = model(
                    input_ids=ids[None, :length], labels=labels[None, :length], use_cache=False
                ).loss
                found.append(norms(torch.autograd.grad(loss, weight)[0][None]))
        return np.concatenate(found)

    return differentiating(weight, run)


def opacus_way(model: Any, batches: list[Batch]) -> Run:
    """Ghost norms, and only the first of the two backward passes of ghost clipping."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    weight = layer(model)[1]
    weight.requires_grad_(True)  # its hooks are put where a gradient is needed
    wrapped = GradSampleModuleFastGradientClipping(
        model, loss_reduction="sum", use_ghost_clipping=True
    )
    wrapped.train()  # without it nothing is recorded; there is no dropout

    def run() -> Floats:
        found = []
        for batch in batches:
            ids, labels = tensors(model, batch)
            row_losses(wrapped(input_ids=ids, use_cache=False).logits, labels).sum().backward()
            found.append(wrapped.get_norm_sample().double().cpu().numpy())
            weight.grad = None
        return np.concatenate(found)

    return differentiating(weight, run)


def torch_func_way(model: Any, batches: list[Batch]) -> Run:
    """Per-sample gradients by vmap(grad) of the whole model."""
    name, weight = layer(model)

    def loss(weight: Tensor, ids: Tensor, labels: Tensor) -> Tensor:
        inputs = {"input_ids": ids[None], "use_cache": False}
        logits = functional_call(model, {f"{name}.weight": weight}, (), inputs).logits
        return row_losses(logits, labels[None])[0]

    per_row = vmap(grad(loss), in_dims=(None, 0, 0))
    return lambda: np.concatenate(
        [norms(per_row(weight.detach(), *tensors(model, batch))) for batch in batches]
    )


def torch_func_last_block_way(model: Any, batches: list[Batch]) -> Run:
    """The same, the blocks below the last one outside of it: one plain forward pass."""
    name, weight = layer(model)
    block = model.model.layers[-1]
    inner = name.partition(f"layers.{len(model.model.layers) - 1}.")[2]

    def loss(weight: Tensor, states: Tensor, labels: Tensor, settings: dict[str, Any]) -> Tensor:
        states = functional_call(block, {f"{inner}.weight": weight}, (states[None],), settings)
        return row_losses(model.lm_head(model.model.norm(states)), labels[None])[0]

    per_row = vmap(grad(loss), in_dims=(None, 0, 0, None))

    def run() -> Floats:
        found = []
        for batch in batches:
            ids, labels = tensors(model, batch)
            states, settings = before(block, model, ids)
            found.append(norms(per_row(weight.detach(), states, labels, settings)))
        return np.concatenate(found)

    return run


def bergson_way(model: Any, batches: list[Batch]) -> Run:
    """Gradients collected in memory, of the one module, and their norms."""
    return _bergson(model, batches, layer(model)[1])


def bergson_own_way(model: Any, batches: list[Batch]) -> Run:
    """The same as bergson itself sets a model up: the embedding requires a gradient, not the layer.

    So the backward pass goes through the whole model.
    """
    return _bergson(model, batches, model.get_input_embeddings().weight)


def _bergson(model: Any, batches: list[Batch], needed: nn.Parameter) -> Run:
    from bergson import CollectorComputer, IndexConfig, InMemoryCollector
    from datasets import Dataset

    name = layer(model)[0]
    rows: list[dict[str, list[int]]] = []
    places: list[list[int]] = []
    for batch in batches:
        places.append(list(range(len(rows), len(rows) + len(batch.rows))))
        lengths = batch.attention_mask.sum(dim=1).tolist()
        for ids, labels, length in zip(batch.input_ids, batch.labels, lengths, strict=True):
            rows.append({"input_ids": ids[:length].tolist(), "labels": labels[:length].tolist()})
    data = Dataset.from_list(rows)

    def run() -> Floats:
        with tempfile.TemporaryDirectory() as folder, _quiet():
            config = IndexConfig(run_path=folder, loss_reduction="mean")
            config.partial_run_path.mkdir(parents=True)
            collector = InMemoryCollector(model=model, cfg=config, data=data, target_modules={name})
            CollectorComputer(
                model, data, collector=collector, batches=places, cfg=config
            ).run_with_collector_hooks()
        return norms(collector.gradients[name])

    return differentiating(needed, run)


def layer(model: Any) -> tuple[str, nn.Parameter]:
    """Name of the last block's value projection, and its weight."""
    found = find_value_projection(model)
    return found.name, found.module.weight


def tensors(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Ids and labels int64 [B, T] on the model's device."""
    return batch.input_ids.to(model.device), batch.labels.to(model.device)


def row_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy float32 [B] over a row's response tokens; as in transformers, in float32.

    logits [B, T, V], labels int64 [B, T].
    """
    target = labels[:, 1:]
    losses = nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), target.flatten(), reduction="none"
    ).view(target.shape)
    return losses.sum(dim=1) / (target >= 0).sum(dim=1)


def norms(gradients: Tensor) -> Floats:
    """Norms float64 [B] of gradients [B, …]."""
    return gradients.detach().flatten(1).float().norm(dim=1).double().cpu().numpy()


class _ReachedError(Exception):
    """The block whose input was wanted; the rest of the forward pass is not."""


def before(block: nn.Module, model: Any, ids: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """What a block is called with for a batch: states [B, T, D] and its keyword arguments."""
    seen: list[tuple[Tensor, dict[str, Any]]] = []

    def hook(_module: nn.Module, args: tuple[Tensor, ...], settings: dict[str, Any]) -> None:
        seen.append((args[0], settings))
        raise _ReachedError

    handle = block.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)
    except _ReachedError:
        pass
    finally:
        handle.remove()
    return seen[0]


def differentiating(weight: nn.Parameter, run: Run) -> Run:
    """Let this weight alone require a gradient while it runs."""

    def wrapped() -> Floats:
        with _required(weight):
            return run()

    return wrapped


@contextmanager
def _required(weight: nn.Parameter) -> Iterator[None]:
    weight.requires_grad_(True)
    try:
        yield
    finally:
        weight.requires_grad_(False)
        weight.grad = None


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no notices."""
    logging.disable(logging.INFO)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
