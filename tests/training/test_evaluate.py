import copy

import numpy as np
import pytest

from staff.errors import ConfigError, DataError, StaffError
from staff.training.evaluate import evaluate, item_losses, split_response
from staff.training.generate import closing_tokens, end_tokens, generate_greedily
from staff.types import IGNORE, TokenisedExample


@pytest.fixture(scope="module")
def model(tiny):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny).eval()


def test_a_memorised_response_is_generated_word_for_word(memorised, tiny, rows):
    result = evaluate(model=str(tiny), adapter=memorised.adapter, tokens=rows)
    assert result.predictions == result.references
    assert result.predictions[1] == "Астана қаласы."
    assert result.summary["exact"] == 1.0
    assert result.summary["rougeL"] == 100
    assert result.summary["bleu"] == pytest.approx(100)
    assert result.summary["loss"] < 0.2
    assert result.ids == tuple(rows.ids)
    assert list(result.per_item) == ["loss", "rougeL", "bleu", "exact"]
    assert all(scores.shape == (16,) for scores in result.per_item.values())


def test_the_untuned_model_knows_nothing(tiny, rows):
    result = evaluate(model=str(tiny), tokens=rows, metrics=["loss", "exact"], max_new_tokens=4)
    assert result.summary["exact"] == 0
    assert result.summary["loss"] > 4
    assert list(result.summary) == ["loss", "exact"]


@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_loss_is_the_models_own_whatever_the_batch(model, rows, batch_tokens):
    import torch

    alone = []
    for row in rows.rows:  # the slow truth: one example, the loss transformers computes
        ids, labels = torch.tensor(row.input_ids)[None], torch.tensor(row.labels)[None]
        with torch.no_grad():
            alone.append(model(input_ids=ids, labels=labels).loss.item())
    losses = item_losses(model=model, tokens=rows, batch_tokens=batch_tokens)
    np.testing.assert_allclose(losses, alone, rtol=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 200, 10_000])
def test_generation_is_plain_arg_max_whatever_the_batch(model, rows, batch_tokens):
    import torch

    prompts = [split_response(row)[0] for row in rows.rows[:6]]
    alone = []
    for prompt in prompts:  # the slow truth: no cache, no padding, one token at a time
        ids = torch.tensor(prompt)[None]
        for _ in range(8):
            with torch.no_grad():
                ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
        alone.append(ids[0, len(prompt) :].tolist())
    found = generate_greedily(
        model=model,
        prompts=prompts,
        max_new_tokens=8,
        eos_ids=[],
        batch_tokens=batch_tokens,
    )
    assert found == alone
    # Any end token cuts the response and is not part of it.
    end = alone[0][3]
    cut = generate_greedily(
        model=model,
        prompts=prompts,
        max_new_tokens=8,
        eos_ids=[end, 2],
        batch_tokens=batch_tokens,
    )
    assert cut[0] == alone[0][: alone[0].index(end)]


def test_the_models_generation_settings_do_not_apply_and_are_kept(model, rows):
    from transformers import GenerationConfig

    prompts = [split_response(row)[0] for row in rows.rows[:2]]
    settings = {"max_new_tokens": 6, "eos_ids": [], "batch_tokens": 1000}
    plain = generate_greedily(model=model, prompts=prompts, **settings)
    own = model.generation_config
    odd = GenerationConfig(
        do_sample=True, temperature=9.0, repetition_penalty=5.0, min_new_tokens=1
    )
    model.generation_config = odd
    try:
        assert generate_greedily(model=model, prompts=prompts, **settings) == plain
        assert model.generation_config is odd
    finally:
        model.generation_config = own


def test_a_prompt_that_nearly_fills_the_context_gets_what_is_left(model):
    prompts = [np.arange(3, 3 + length) for length in (90, 96, 20)]
    found = generate_greedily(
        model=model, prompts=prompts, max_new_tokens=40, eos_ids=[], batch_tokens=1
    )
    assert [len(ids) for ids in found] == [6, 0, 40]


def test_no_answer_is_shorter_for_its_company(model):
    # 90 tokens leave room for 6 of the context's 96; the others have all the room they ask for.
    prompts = [np.arange(3, 3 + length) for length in (90, 20, 88, 20, 90)]
    settings = {"model": model, "max_new_tokens": 40, "eos_ids": []}
    alone, together = (
        generate_greedily(prompts=prompts, batch_tokens=tokens, **settings) for tokens in (1, 10**6)
    )
    assert [len(ids) for ids in together] == [6, 40, 8, 40, 6]
    assert together == alone


class OutOfMemory:
    """A model's forward on a machine that holds so many tokens; counts what it refused."""

    def __init__(self, model, most, monkeypatch):
        self.forward, self.most, self.refused = model.forward, most, 0
        monkeypatch.setattr(model, "forward", self)

    def __call__(self, *args, input_ids, **kwargs):
        if input_ids.numel() > self.most:
            self.refused += 1
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return self.forward(*args, input_ids=input_ids, **kwargs)


def test_out_of_memory_halves_the_batch_and_goes_on(model, tokenizer, rows, monkeypatch):
    settings = {"model": model, "tokenizer": tokenizer, "tokens": rows, "max_new_tokens": 4}
    whole = evaluate(**settings)
    memory = OutOfMemory(model, 100, monkeypatch)
    found = evaluate(**settings)
    assert 2 <= memory.refused <= 8  # a few times, then it is known
    assert found.predictions == whole.predictions
    np.testing.assert_allclose(found.per_item["loss"], whole.per_item["loss"], rtol=1e-5)


def test_a_test_item_too_large_for_memory_is_named(model, rows, monkeypatch):
    OutOfMemory(model, 10, monkeypatch)
    longest = int(rows.lengths.argmax())
    words = rf"out of memory on test item {longest} \({rows.lengths[longest]} tokens\) alone"
    with pytest.raises(StaffError, match=words):
        item_losses(model=model, tokens=rows, batch_tokens=10**6)


def test_losses_come_to_the_cpu_before_they_are_float64(model, rows, monkeypatch):
    """Apple's GPUs have no float64; no such machine here."""
    from staff.training import evaluate as module

    class OnGpu:
        def __init__(self, losses):
            self.cpu = losses.clone

    usual, original = item_losses(model=model, tokens=rows, batch_tokens=500), module.token_losses
    monkeypatch.setattr(module, "token_losses", lambda *how: OnGpu(original(*how)))
    found = item_losses(model=model, tokens=rows, batch_tokens=500)
    np.testing.assert_array_equal(found, usual)


def test_a_padding_token_that_the_model_does_not_know_is_not_used(model, tokenizer, rows):
    odd = copy.deepcopy(tokenizer)
    odd.add_special_tokens({"pad_token": "<beyond>"})
    assert odd.pad_token_id == model.config.vocab_size
    settings = {"model": model, "tokens": rows, "metrics": ["exact"], "max_new_tokens": 3}
    found, usual = (evaluate(**settings, tokenizer=t).predictions for t in (odd, tokenizer))
    assert found == usual


def test_a_missing_reference_is_decoded(model, tokenizer, rows):
    given = ["…", None] * 8
    result = evaluate(
        model=model,
        tokenizer=tokenizer,
        tokens=rows,
        metrics=["exact"],
        references=given,
        max_new_tokens=2,
    )
    assert result.references[:4] == ("…", "Астана қаласы.", "…", "Green.")


def test_the_default_limit_follows_the_longest_response(model, tokenizer, rows, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "staff.training.generate.generate_greedily",
        lambda **settings: asked.append(settings["max_new_tokens"]) or [[]] * 16,
    )
    longest = rows.response_lengths.max()
    evaluate(model=model, tokenizer=tokenizer, tokens=rows, metrics=["exact"])
    assert asked == [longest * 3 // 2 + 8]


def test_given_references_are_used(model, tokenizer, rows):
    result = evaluate(
        model=model,
        tokenizer=tokenizer,
        tokens=rows,
        metrics=["rougeL"],
        references=["…"] * 16,
        max_new_tokens=2,
    )
    assert result.references == ("…",) * 16
    assert result.summary == {"rougeL": 0.0}


def test_end_tokens_are_the_tokenizers_and_the_models(model, tokenizer):
    assert end_tokens(model, tokenizer) == [2]
    own = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = [5, 2]
    try:
        assert end_tokens(model, tokenizer) == [2, 5]
    finally:
        model.generation_config.eos_token_id = own


def test_an_answer_ends_where_the_template_ends_a_turn(model, tokenizer, rows, monkeypatch):
    # As ChatML with a base model: "<|im_end|>" and a line feed, and the model's end token is another.
    turn_end, asked = tokenizer.bos_token_id, []
    inside = np.array([False, False, True, True, True])
    chats = [np.array([5, 6, 7 + n, turn_end, 9]) for n in range(3)]
    tokens = type(rows)([TokenisedExample("", t, np.where(inside, t, IGNORE)) for t in chats])

    def generate(*, prompts, eos_ids, **_):
        asked.extend(eos_ids)
        return [[] for _ in prompts]

    monkeypatch.setattr("staff.training.generate.generate_greedily", generate)
    evaluate(model=model, tokenizer=tokenizer, tokens=tokens, metrics=["exact"])
    assert asked == sorted([turn_end, tokenizer.eos_token_id])
    # One row alone that ends so (it was cut there, say) tells nothing of the others.
    odd = [np.array([7, turn_end]), np.array([7, 8]), np.array([8, 9])]
    assert closing_tokens(odd, tokenizer) == closing_tokens([], tokenizer) == []


def test_split_response_takes_the_last_turn():
    labels = np.array([IGNORE, IGNORE, 12, 13, IGNORE, 15, 16, IGNORE])
    prompt, response = split_response(TokenisedExample("x", np.arange(10, 18), labels))
    assert prompt.tolist() == [10, 11, 12, 13, 14]
    assert response.tolist() == [15, 16]
    prompt, response = split_response(TokenisedExample("x", np.arange(10, 13), np.arange(10, 13)))
    assert (prompt.tolist(), response.tolist()) == ([10], [11, 12])


def test_errors(model, tokenizer, rows):
    with pytest.raises(ConfigError, match="did you mean 'rougeL'"):
        evaluate(model=model, tokenizer=tokenizer, tokens=rows, metrics=["rouge"])
    with pytest.raises(ConfigError, match="by its path"):
        evaluate(model=model, tokenizer=tokenizer, tokens=rows, adapter="a")
    with pytest.raises(ConfigError, match="tokenizer"):
        evaluate(model=model, tokens=rows)
    with pytest.raises(DataError, match="3 references for 16 rows"):
        evaluate(model=model, tokenizer=tokenizer, tokens=rows, references=["a", "b", "c"])
    with pytest.raises(DataError, match="no rows"):
        evaluate(model=model, tokenizer=tokenizer, tokens=type(rows)([]))
