"""Effort scores S_d = ‖∇_φ L(θ(d))‖₂ of a whole batch at once (step 2 of docs/method.md).

One forward pass without an autograd graph up to φ, logits at response positions only, one
backward pass from Σ_i L_i down to φ's output, no weight gradients, and per-sample norms from the
inputs and gradients at φ. `staff.scores.oracle` is the slow reference that checks it.
"""

import inspect
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from staff.data.batches import Batch
from staff.errors import ConfigError, DataError, ModelError, unknown_name
from staff.models.adapters import without_peft
from staff.models.by_row import NOT_TAKEN, by_row, may_go_by_row, mixes_rows, windows_of
from staff.models.narrow import narrowed, that_keep_tokens_apart, token_wise_parts
from staff.models.placement import device_of
from staff.models.response_logits import gathered, output_head
from staff.models.rotary import longest_alike
from staff.scores.flat import Flat, Laying, keeps_rows_apart, takes_flash_lengths
from staff.scores.norms import wide
from staff.scores.phi import PHI, PerSampleShapeLost
from staff.scores.signals import SIGNALS, Response, collect, find_response, token_signals
from staff.scores.taps import Tap, gradients, tapped
from staff.types import IGNORE, Floats


class Scorer:
    """Scores batches on one model.

    model: a causal LM (or a PEFT model around one); it is switched to eval mode and its
        parameters are frozen. With phi ``adapter`` and no LoRA in it, one is attached to it.
    phi: last-value, last-value-lora, adapter or lm-head; None: no gradient, signals only.
    signals: which of loss, entropy, el2n and response_length to return beside it.
    features: also return "features", the mean final hidden state over a sample's real tokens.
    seed: of what phi draws at random (last-value-lora; adapter where it is freshly attached).
    padding_free: run the model on the rows of a batch one behind the other (`staff.scores.flat`),
        or never. None: on the CPU, attention by row, if the model's scores are the same.

    Raises ConfigError for unknown names and ModelError where phi is not found in the model, or
    never called, where it looks at later tokens, or where it does not keep rows apart that stand
    in one sequence.
    """

    def __init__(
        self,
        model: Any,
        *,
        phi: str | None = "last-value",
        signals: Sequence[str] = SIGNALS,
        features: bool = False,
        seed: int = 0,
        padding_free: bool | None = None,
    ) -> None:
        if phi is not None and phi not in PHI:
            raise ConfigError(unknown_name("phi", phi, PHI))
        for name in signals:
            if name not in SIGNALS:
                raise ConfigError(unknown_name("signal", name, SIGNALS))
        self.model = without_peft(model)
        self.phi = None if phi is None else PHI[phi](self.model, seed=seed)
        self.model.eval().requires_grad_(False)
        for parameter in self.phi.parameters if self.phi else ():
            parameter.requires_grad_(True)
        self.head = output_head(self.model)
        self.apart = longest_alike(self.model)
        self.signals = tuple(signals)
        self.features = features
        self._takes_positions = "position_ids" in inspect.signature(self.model.forward).parameters
        if padding_free and not (self._takes_positions and keeps_rows_apart(self.model)):
            raise ModelError(
                f"{type(self.model).__name__} does not keep the rows of a packed sequence apart: "
                "leave out --padding-free"
            )
        self.laying = Laying(flash=takes_flash_lengths(self.model)) if padding_free else None
        if padding_free is None:
            self.laying = self._laying_by_row()
        if self.phi is None or not self.phi.parameters:
            with suppress(PerSampleShapeLost):
                _ = self._plain  # refuses a model that looks ahead
        self._narrow = self._narrowable(phi)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the float64 columns that a call returns."""
        return (*(("effort",) if self.phi else ()), *self.signals)

    def __call__(self, batch: Batch) -> dict[str, Floats]:
        """Score a batch: one float64 array [B] a column (and "features" float32 [B, D]).

        Raises DataError when a row has no response token.
        """
        if self.phi is None or not self.phi.parameters:
            try:
                return self._score(batch, self._narrow, self.laying)
            except PerSampleShapeLost:
                pass
        rows = [self._score(one, self._narrow, None) for one in _split(batch)]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    def _narrowable(self, phi: str | None) -> tuple[nn.Module, ...]:
        """Parts of the last block that may skip prompt positions: they change no probe's score."""
        if self.features or phi == "adapter":
            return ()  # both need the last block's output everywhere
        parts = token_wise_parts(self.model)
        inputs = self._inputs(_probe(), device_of(self.model.get_input_embeddings()))
        try:
            parts = that_keep_tokens_apart(parts, lambda: self.model(**inputs))
            return parts if self._same_as_plain(parts, self.laying) else ()
        except RuntimeError:  # another shape comes out than went in, as of Llama 4's experts
            return ()

    def _laying_by_row(self) -> Laying | None:
        """How to lay rows end to end for attention by row; None where they must be padded."""
        if not may_go_by_row(self.model) or (self.phi is not None and self.phi.parameters):
            return None
        half = self.head.weight.dtype in (torch.bfloat16, torch.float16)
        laying = Laying(by_row=True)
        if half:
            laying = replace(laying, tokens=128, responses=64)
        widths: set[int | None] = set()
        try:
            same = self._same_as_plain((), replace(laying, widths=widths))
            same = same and not mixes_rows(self.model)
        except (*NOT_TAKEN, PerSampleShapeLost):
            return None
        # A window that is not told would have been by a mask, which there is none of.
        return laying if same and windows_of(self.model) <= widths else None

    @cached_property
    def _plain(self) -> dict[str, Floats]:
        """The probe's scores of padded rows, computed in full.

        Raises ModelError if they depend on a token behind all that is in the loss.
        """
        found = self._score(_probe(), (), None)
        in_loss = [found[name] for name in self.columns]
        if not all(np.allclose(c[0], c[2], rtol=self._rounding, equal_nan=True) for c in in_loss):
            raise ModelError(
                f"{type(self.model).__name__} looks at later tokens, so it cannot be scored: give "
                "a causal language model (a BERT is one only with is_decoder in its config)"
            )
        return found

    def _same_as_plain(self, narrow: tuple[nn.Module, ...], laying: Laying | None) -> bool:
        """Whether the probe's scores are those of padded rows that are computed in full."""
        plain, found = self._plain, self._score(_probe(), narrow, laying)
        # The two differ by rounding alone: fewer rows may mean another order of summation.
        return all(np.allclose(found[c], plain[c], rtol=self._rounding, atol=1e-6) for c in plain)

    @property
    def _rounding(self) -> float:
        """How far apart, relative to them, two scores may be that are the same."""
        return 1e-4 if self.head.weight.dtype in (torch.float32, torch.float64) else 1e-2

    def _score(
        self, batch: Batch, narrow: tuple[nn.Module, ...], laying: Laying | None
    ) -> dict[str, Floats]:
        device = device_of(self.model.get_input_embeddings())
        response = find_response(batch.labels.to(device))
        if not bool((response.count > 0).all()):
            row = int(batch.rows[int((response.count == 0).nonzero()[0])])
            raise DataError(f"row {row} has no response token in the loss; it cannot be scored")
        modules = self.phi.modules if self.phi else ()
        b, t = batch.labels.shape
        rows = response.sample * t + response.position  # [N], of the batch's B·T tokens
        flat = Flat(batch, device, laying) if laying and b > 1 else None
        if flat is not None:
            rows = flat.rounded(flat.places(rows))
        with (
            torch.set_grad_enabled(self.phi is not None),
            by_row(self.model) if flat and flat.laying.by_row else nullcontext(),
            narrowed(narrow, shape=flat.shape if flat else (b, t), rows=rows),
            gathered(self.head, rows) as states,
            tapped(modules) as taps,
        ):
            inputs = flat.inputs() if flat else self._inputs(batch, device)
            logits = self.model(**inputs).logits  # [1, N, V], and more where they are rounded up
        found = logits.detach()[0]
        target = pad(response.target, (0, len(found) - len(response.target))).to(found.device)
        tokens, slope = token_signals(
            found, target, signals=self.signals, gradient=self.phi is not None
        )
        tokens = {name: values[: len(response.target)] for name, values in tokens.items()}
        columns: dict[str, Any] = {}
        if self.phi is not None and slope is not None:
            slope[len(response.target) :] = 0
            # L_i is a mean over n_i tokens: dividing by n_i last spares float16 an underflow.
            squared = self._squared_norms(logits, slope[None], taps, response, flat).cpu().double()
            columns["effort"] = (squared.sqrt() / response.count.cpu()).numpy()
        columns |= collect(response, tokens, self.signals)
        if self.features:
            last = flat.padded(states[0]) if flat else states[0]
            columns["features"] = _pooled(last, batch.attention_mask)
        return columns

    def _squared_norms(
        self,
        logits: Tensor,
        slope: Tensor,
        taps: Sequence[Tap],
        response: Response,
        flat: Flat | None,
    ) -> Tensor:
        """‖∇_φ n_i L_i‖² float64 [B]."""
        assert self.phi is not None
        if self.phi.squared_norms is not None:
            grads = gradients(logits, slope, taps)
            if flat is not None and self.head not in self.phi.modules:  # it sees responses only
                taps, grads = flat.apart(taps, grads)
            return self.phi.squared_norms(taps, grads, response)
        found = torch.autograd.grad(
            logits, self.phi.parameters, grad_outputs=slope, allow_unused=True
        )
        squares = [wide(g).square().sum() for g in found if g is not None]
        return torch.stack(squares).sum()[None]

    def _inputs(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        inputs = {"input_ids": batch.input_ids.to(device), "use_cache": False}
        mask = batch.attention_mask
        if bool((mask[:, 1:] <= mask[:, :-1]).all()) and bool(mask[:, 0].all()):
            # Padding on the right comes after every real token, so a causal model never looks at
            # it: without a mask, attention takes its faster causal path.
            inputs["input_ids"] = batch.unmasked_ids().to(device)
            return inputs
        inputs["attention_mask"] = mask.to(device)
        if self._takes_positions:
            inputs["position_ids"] = (mask.long().cumsum(dim=1) - 1).clamp_min(0).to(device)
        return inputs


def _pooled(states: Tensor, mask: Tensor) -> Any:
    """Mean float32 [B, D] of final hidden states [B, T, D] over real tokens."""
    weight = mask.to(states.device, torch.float32)  # [B, T]
    total = torch.einsum("btd,bt->bd", states.float(), weight)
    return (total / weight.sum(dim=1, keepdim=True)).cpu().numpy()


def _probe() -> Batch:
    """Short rows of different lengths; all of the second is response, from its first token.

    The third is the first but for its last token, which is not in the loss.
    """
    ids = torch.tensor([[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 0, 0], [1, 2, 3, 4, 5, 7]])
    first, second = [IGNORE, IGNORE, 3, 4, 5, IGNORE], [IGNORE, 5, 4, 3, IGNORE, IGNORE]
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    labels = torch.tensor([first, second, first])
    return Batch(rows=torch.arange(3), input_ids=ids, labels=labels, attention_mask=mask)


def _split(batch: Batch) -> list[Batch]:
    return [
        Batch(
            rows=batch.rows[i : i + 1],
            input_ids=batch.input_ids[i : i + 1],
            labels=batch.labels[i : i + 1],
            attention_mask=batch.attention_mask[i : i + 1],
        )
        for i in range(len(batch.rows))
    ]
