"""Batched greedy generation."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from staff.models.placement import device_of
from staff.progress import Progress, SilentProgress
from staff.types import IGNORE, Ints, TokenisedExample


def generate_greedily(
    *,
    model: Any,
    prompts: Sequence[Ints],
    max_new_tokens: int,
    eos_ids: Sequence[int],
    batch_tokens: int,
    progress: Progress | None = None,
) -> list[list[int]]:
    """Continue every prompt with the likeliest token until an end token or the limit.

    Prompts are batched by length and padded on the left; a key-value cache is kept.
    What the model's own generation settings say (sampling, penalties) does not apply.

    Args:
        model: a causal LM in eval mode.
        prompts: n int64 arrays [T_i], none empty.
        max_new_tokens: limit; a prompt that nearly fills the model's context gets less.
        eos_ids: any of these ends a response and is not returned.
        batch_tokens: prompts x (longest prompt + max_new_tokens) of a batch stays below,
            unless one prompt alone is above; halved when memory runs out.

    Returns:
        n lists of token ids in the order of `prompts`.
    """
    import torch
    from transformers import GenerationConfig

    from staff.data.batches import PAD_ID, collate, token_budget_batches
    from staff.models.memory import Halving
    from staff.models.rotary import longest_alike

    settings = GenerationConfig(
        do_sample=False, eos_token_id=list(eos_ids) or None, pad_token_id=PAD_ID, use_cache=True
    )
    device = device_of(model.get_input_embeddings())
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    lengths = np.array([len(prompt) for prompt in prompts], np.int64)
    rooms = np.full(len(prompts), max_new_tokens)
    if context is not None:
        rooms = np.clip(context - lengths, 0, max_new_tokens)
    sizes = lengths + rooms
    batches: list[Ints] = []
    # Prompts of different room share no batch, or one would shorten another's answer.
    for room in np.unique(rooms[rooms > 0])[::-1]:
        group = np.flatnonzero(rooms == room)
        found = token_budget_batches(
            sizes[group], batch_tokens=batch_tokens, apart=longest_alike(model)
        )
        batches += [group[places] for places in found]
    outputs: list[list[int]] = [[] for _ in prompts]

    def go_on(rows: Ints) -> list[list[int]]:
        """New token ids of prompts that all have the same room."""
        batch = collate([_unlabelled(prompts[i]) for i in rows], side="left")
        with torch.no_grad():
            ids = model.generate(
                input_ids=batch.input_ids.to(device),
                attention_mask=batch.attention_mask.to(device),
                max_new_tokens=int(rooms[rows[0]]),
            )
        return ids[:, batch.input_ids.shape[1] :].tolist()

    def describe(row: int) -> str:
        return f"test item {row} ({lengths[row]} tokens and {rooms[row]} to generate)"

    model_settings, model.generation_config = model.generation_config, settings
    try:
        with (progress or SilentProgress()).stage("generate", total=len(prompts)) as stage:
            stage.advance(int((rooms == 0).sum()))
            halving = Halving(batch_tokens, note=stage.note)
            for rows, new in halving.run(batches, sizes, go_on, describe=describe):
                for row, ids in zip(rows, new, strict=True):
                    outputs[row] = _until_end(ids, set(eos_ids))
                stage.advance(len(rows))
    finally:
        model.generation_config = model_settings
    return outputs


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end a response: the tokenizer's, and those the model's settings name."""
    named = getattr(model.generation_config, "eos_token_id", None)
    ids = set(named if isinstance(named, list) else [named]) | {tokenizer.eos_token_id}
    return sorted(ids - {None})


def closing_tokens(responses: Sequence[Ints], tokenizer: Any) -> list[int]:
    """The special tokens that most responses end with: how a chat template ends a turn.

    That need not be the end token of the tokenizer or the model, which of a base model is another.
    Templates put a line feed or so behind it.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    last = (next((t for t in ids[:-4:-1].tolist() if t in special), None) for ids in responses)
    return [t for t, n in Counter(last).items() if t is not None and 2 * n > len(responses)]


def _unlabelled(prompt: Ints) -> TokenisedExample:
    return TokenisedExample("", prompt, np.full(len(prompt), IGNORE, np.int64))


def _until_end(ids: list[int], ends: set[int]) -> list[int]:
    for place, token in enumerate(ids):
        if token in ends:
            return ids[:place]
    return ids
