"""Evaluate a model on held-out rows: loss, ROUGE-L, BLEU, exact match."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from staff.data.batches import collate, token_budget_batches
from staff.errors import ConfigError, DataError, ModelError, unknown_name
from staff.models.placement import Spread, device_of
from staff.models.quantised import NONE
from staff.models.trust import NO_TRUST, Trust
from staff.progress import Progress, SilentProgress
from staff.training.metrics import TEXT_METRICS
from staff.training.tokens import Tokens
from staff.types import IGNORE, Floats, Ints, TokenisedExample, read_only
from staff.visible import one_line, shortened

if TYPE_CHECKING:
    from torch import Tensor

    from staff.training.packed import Packing

METRICS = ("loss", *TEXT_METRICS)
MOST_NEW_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of n test items.

    per_item: float64 [n] a metric. loss: mean negative log-likelihood over the item's
        response tokens, in nats; rougeL, bleu: 0-100; exact: 0 or 1.
    summary: the means over items, but for bleu the corpus score.
    predictions, references: texts, empty when no metric needed generation.
    """

    ids: tuple[str, ...]
    per_item: Mapping[str, Floats]
    summary: Mapping[str, float]
    predictions: tuple[str, ...] = ()
    references: tuple[str, ...] = ()


def evaluate(
    *,
    model: Any,
    tokens: Tokens,
    tokenizer: Any = None,
    adapter: str | Path | None = None,
    metrics: Sequence[str] = METRICS,
    references: Sequence[str | None] | None = None,
    max_new_tokens: int | None = None,
    batch_tokens: int = 8192,
    dtype: str = "auto",
    device: str = "auto",
    quantize: str = NONE,
    spread: Spread | None = None,
    trust: Trust = NO_TRUST,
    progress: Progress | None = None,
) -> Evaluation:
    """Score a model on tokenised test rows.

    A row's last response (its last run of tokens in the loss) is what generation has to
    produce; everything before it is the prompt. Batch size changes no item's score
    beyond rounding.

    Args:
        model: path or hub id, or a loaded causal LM in eval mode.
        tokens: the test rows.
        tokenizer: of the model; read from its folder when only a path is given.
        adapter: LoRA folder to put on a model given by path.
        metrics: some of METRICS.
        references: the original responses, n texts; where there is none, the row's own
            tokens are decoded, which hides what the tokenizer cannot spell or what was cut.
        max_new_tokens: of a prediction; 1.5 times the longest reference plus 8, at
            most 512, when not given.
        batch_tokens: padded tokens in a batch; halved when memory runs out.
        dtype, device, quantize, spread, trust: as in `models.load.load_model`; not used for a
            loaded model.

    Raises:
        ConfigError: an unknown metric, or an adapter for a loaded model.
        DataError: no rows, or another number of references. ModelError: a loss is not finite.
        StaffError: one row alone is too large for memory.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise ConfigError(unknown_name("metric", metric, METRICS))
    n = len(tokens.lengths)
    if n == 0:
        raise DataError("there are no rows to evaluate on")
    if references is not None and len(references) != n:
        raise DataError(f"there are {len(references)} references for {n} rows")
    text_metrics = [metric for metric in metrics if metric != "loss"]
    if isinstance(model, str | Path):
        from staff.models.load import load_model, load_tokenizer

        tokenizer = tokenizer or load_tokenizer(str(model), trust=trust)
        model = load_model(
            str(model),
            dtype=dtype,
            device=device,
            adapter=None if adapter is None else str(adapter),
            quantize=quantize,
            spread=spread,
            trust=trust,
        )
    elif adapter is not None:
        raise ConfigError("give the base model by its path to evaluate it with an adapter")
    if tokenizer is None:
        raise ConfigError("a loaded model needs its tokenizer to be evaluated")

    per_item: dict[str, Floats] = {}
    summary: dict[str, float] = {}
    predictions: list[str] = []
    texts: list[str] = []
    if "loss" in metrics:
        per_item["loss"] = read_only(
            item_losses(model=model, tokens=tokens, batch_tokens=batch_tokens, progress=progress)
        )
        _check_finite(per_item["loss"], tokens)
        summary["loss"] = float(per_item["loss"].mean())
    if text_metrics:
        prompts, answers = zip(
            *(split_response(tokens.get(np.array([row]))[0]) for row in range(n)), strict=True
        )
        texts = [
            _text(tokenizer, answer) if given is None else given
            for given, answer in zip(references or [None] * n, answers, strict=True)
        ]
        longest = max(len(answer) for answer in answers)
        predictions = predict(
            model=model,
            tokenizer=tokenizer,
            prompts=prompts,
            like=answers,
            max_new_tokens=max_new_tokens or min(MOST_NEW_TOKENS, longest * 3 // 2 + 8),
            batch_tokens=batch_tokens,
            progress=progress,
        )
        for metric in text_metrics:
            scores, summary[metric] = TEXT_METRICS[metric](predictions, texts)
            per_item[metric] = read_only(scores)
    return Evaluation(
        ids=tuple(tokens.ids),
        per_item=per_item,
        summary=summary,
        predictions=tuple(predictions),
        references=tuple(texts),
    )


def _check_finite(losses: Floats, tokens: Tokens) -> None:
    """Raise `ModelError` if a test item has no finite loss."""
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        first = shortened(one_line(tokens.ids[int(bad[0])]))
        raise ModelError(
            f"the test loss of {len(bad)} of {len(losses)} items is not finite, the first of "
            f"{first}. Likely causes: an overflow (try --dtype float32), or a model or adapter "
            "with damaged weights"
        )


def item_losses(
    *, model: Any, tokens: Tokens, batch_tokens: int, progress: Progress | None = None
) -> Floats:
    """Mean negative log-likelihood over each row's response tokens, in nats: float64 [n]."""
    import torch

    from staff.models.adapters import without_peft
    from staff.models.by_row import by_row
    from staff.models.memory import Halving
    from staff.models.rotary import longest_alike
    from staff.training.packed import packing_of

    lengths = np.asarray(tokens.lengths)
    losses = np.full(len(lengths), np.nan)
    base = without_peft(model)
    packing = packing_of(base)

    def mean_losses(rows: Ints) -> Floats:
        with torch.no_grad():
            per_token = token_losses(model, tokens.get(rows), packing)
        counts = tokens.response_lengths[rows]
        at = np.repeat(np.arange(len(rows)), counts)  # [N]
        return np.bincount(at, weights=per_token.cpu().double().numpy()) / counts

    with (
        (progress or SilentProgress()).stage("test loss", total=len(losses)) as stage,
        by_row(base) if packing else nullcontext(),
    ):
        for rows, means in Halving(batch_tokens, note=stage.note).run(
            token_budget_batches(lengths, batch_tokens=batch_tokens, apart=longest_alike(base)),
            lengths,
            mean_losses,
            describe=lambda row: f"test item {row} ({lengths[row]} tokens)",
        ):
            losses[rows] = means
            stage.advance(len(rows))
    return losses


def token_losses(
    model: Any, examples: Sequence[TokenisedExample], packing: "Packing | None"
) -> "Tensor":
    """Negative log-likelihood of every response token, float32 [N], one row after the other."""
    from staff.training.packed import pack
    from staff.training.response_loss import goes_unmasked, padded_inputs, response_losses

    if packing:
        packed = pack(examples, multiple=packing.multiple)
        how: dict[str, Any] = {"narrow": packing.narrow, "multiple": packing.responses}
        return response_losses(model, **packed, **how)[0]
    device = device_of(model.get_input_embeddings())
    inputs: dict[str, Any] = padded_inputs(collate(examples), unmasked=goes_unmasked(model))
    return response_losses(model, **{name: value.to(device) for name, value in inputs.items()})[0]


def predict(
    *,
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Ints],
    max_new_tokens: int,
    batch_tokens: int = 8192,
    like: Sequence[Ints] = (),
    progress: Progress | None = None,
) -> list[str]:
    """Greedy responses to tokenised prompts, as text without special tokens.

    like: responses that end as those are to end (`generate.closing_tokens`).
    """
    from staff.training.generate import closing_tokens, end_tokens, generate_greedily

    ends = sorted({*end_tokens(model, tokenizer), *closing_tokens(like, tokenizer)})
    ids = generate_greedily(
        model=model,
        prompts=prompts,
        max_new_tokens=max_new_tokens,
        eos_ids=ends,
        batch_tokens=batch_tokens,
        progress=progress,
    )
    return [_text(tokenizer, tokens) for tokens in ids]


def split_response(example: TokenisedExample) -> tuple[Ints, Ints]:
    """Split a row into prompt [P] and its last response [R], its last run of tokens in the loss."""
    inside = example.labels != IGNORE  # [T]
    end = int(np.flatnonzero(inside)[-1]) + 1
    outside = np.flatnonzero(~inside[:end])
    start = int(outside[-1]) + 1 if len(outside) else 1  # a first token has nothing before it
    return example.input_ids[:start], example.input_ids[start:end]


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(
        [int(token) for token in ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
