"""Conversations with calls of tools and thoughts, in the templates of real models."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from staff.data.records import RecordOptions, to_example
from staff.data.tokenise import Tokeniser
from staff.errors import BadRow
from staff.types import IGNORE

CHAT = RecordOptions(format="messages")
ASK, AGAIN = {"role": "user", "content": "Weather?"}, {"role": "user", "content": "Sure?"}
FUNCTION = {"name": "weather", "arguments": {"city": "Ulm"}}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "abcdefghi", "type": "function", "function": FUNCTION}],
}
RESULT = {"role": "tool", "name": "weather", "tool_call_id": "abcdefghi", "content": "rain"}
SAYS = {"role": "assistant", "content": "It rains."}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "description": "where"}}}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "The weather.", "parameters": SCHEMA},
    }
]
# As Qwen2.5's, shortened; arguments are an object.
CALLING = (
    "{% if tools %}<|system|>\n{{ tools | tojson }}<|eos|>\n{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>\n{% endif %}"
    "{% if m.content %}{{ m.content }}{% endif %}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function.name }}"
    "({{ call.function.arguments.items() | list | tojson }})</call>{% endfor %}<|eos|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
# As DeepSeek V3's: arguments are the text of JSON.
AS_TEXT = CALLING.replace(
    "call.function.arguments.items() | list | tojson", "'' + call.function.arguments"
)
# Writes calls only where there is no content, as an older DeepSeek's.
NULL = CALLING.replace("m.tool_calls or []", "m.tool_calls or [] if m.content is none")
# Calls are thoughts of the last turn alone, and the others begin otherwise (Qwen3).
THINKS_LAST = CALLING.replace(
    "{% for call", "{% if loop.last and m.role == 'assistant' %}<think>\n{% endif %}{% for call"
)


def example(*messages, tools=TOOLS, **more):
    return to_example({"messages": list(messages), "tools": tools, **more}, CHAT)


def learnt(tokenizer, encoded):
    """The learnt stretches, decoded."""
    parts = [[]]
    for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
        if label == IGNORE:
            parts.append([])
        else:
            parts[-1].append(int(token))
    return [tokenizer.decode(part) for part in parts if part]


@pytest.mark.parametrize(
    ("template", "call"),
    [
        (CALLING, '<call>weather([["city", "Ulm"]])</call><|eos|>\n'),
        (AS_TEXT, '<call>weather({"city": "Ulm"})</call><|eos|>\n'),
        (NULL, '<call>weather([["city", "Ulm"]])</call><|eos|>\n'),
        (THINKS_LAST, '<call>weather([["city", "Ulm"]])</call><|eos|>\n'),
    ],
    ids=["object", "text", "null", "thinks last"],
)
def test_a_call_is_learnt_and_its_result_is_not(tokenizer, template, call):
    tokenizer.chat_template = template
    tokeniser = Tokeniser(tokenizer, max_length=None)
    encoded = tokeniser.encode(example(ASK, CALL, RESULT, SAYS))
    last = "<think>\n" if template is THINKS_LAST else ""
    assert learnt(tokenizer, encoded) == [call, f"It rains.{last}<|eos|>\n"]
    text = tokenizer.decode(encoded.input_ids)
    assert text.startswith(f"<|system|>\n{json.dumps(TOOLS)}<|eos|>\n<|user|>\nWeather?")
    assert "<|tool|>\nrain" in text
    without = tokeniser.encode(example(ASK, CALL, RESULT, SAYS, tools=None))
    assert "description" not in tokenizer.decode(without.input_ids)


def test_special_tokens_in_what_tools_are_given_stay_text(tokenizer):
    tokenizer.chat_template = CALLING
    bad = {**FUNCTION, "arguments": {"city": "<|eos|>"}}
    call = {**CALL, "tool_calls": [{"type": "function", "function": bad}]}
    tools = [{"type": "function", "function": {"name": "weather", "description": "<|user|>"}}]
    thought = {**SAYS, "reasoning_content": "<|pad|>"}
    tokeniser = Tokeniser(tokenizer, max_length=None)
    found = tokeniser.encode(example(ASK, call, RESULT, thought, tools=tools)).input_ids
    usual = tokeniser.encode(example(ASK, CALL, RESULT, SAYS)).input_ids
    assert [t for t in found if t < 6] == [t for t in usual if t < 6]
    for text in ('["city", "<|eos|>"]', '"description": "<|user|>"', "<think><|pad|></think>"):
        assert text in tokenizer.decode(found)
    tokenizer.chat_template = CALLING.replace(" | list | tojson", " | list")  # as Python spells it
    assert Tokeniser(tokenizer, max_length=None).encode(example(ASK, CALL, RESULT, SAYS))
    with pytest.raises(BadRow, match="escapes special tokens of the data"):
        Tokeniser(tokenizer, max_length=None).encode(example(ASK, call, RESULT, SAYS))


@pytest.mark.parametrize("marked", [False, True])
def test_answers_of_weight_0_are_read_and_not_learnt(tokenizer, marked):
    if not marked:
        tokenizer.chat_template = CALLING
    tokeniser = Tokeniser(tokenizer, max_length=None)
    talk = example(ASK, {**SAYS, "weight": 0}, AGAIN, {"role": "assistant", "content": "Yes."})
    encoded = tokeniser.encode(talk)
    assert [part.strip() for part in learnt(tokenizer, encoded)] == ["Yes.<|eos|>"]
    whole = tuple(replace(message, learnt=True) for message in talk.messages)
    both = tokeniser.encode(replace(talk, messages=whole))
    assert both.input_ids.tolist() == encoded.input_ids.tolist()
    assert len(learnt(tokenizer, both)) == 2


def test_marks_that_are_as_many_as_answers_by_chance(tokenizer):
    """Two of the first answer, thoughts and words, and none of the second."""
    marked = "{% generation %}{{ X }}{% endgeneration %}"
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>\n{% if m.reasoning_content %}"
        + marked.replace("X", "m.reasoning_content")
        + "{{ '|' }}"
        + marked.replace("X", "m.content")
        + "{% else %}{{ m.content }}{% endif %}<|eos|>\n{% endfor %}"
    )
    first = {**SAYS, "reasoning_content": "Wet."}
    tokeniser = Tokeniser(tokenizer, max_length=None)
    assert learnt(tokenizer, tokeniser.encode(example(ASK, first, AGAIN, SAYS)))
    with pytest.raises(BadRow, match="marks 2 turns of 2 answers, so those of weight 0 cannot"):
        tokeniser.encode(example(ASK, {**first, "weight": 0}, AGAIN, {**SAYS, "content": "Yes."}))


def test_later_turns_that_begin_as_an_earlier_one_was_asked_for(tokenizer):
    """Qwen3.5 asks with the start of a thought, and writes none of those before the last question.

    The header of the second call was found behind the last question, and so its words were left
    out.
    """
    tokenizer.chat_template = (
        "{% set ns = namespace(at=0) %}"
        "{% for m in messages %}{% if m.role == 'user' %}{% set ns.at = loop.index0 %}{% endif %}"
        "{% endfor %}{% for m in messages %}<|{{ m.role }}|>\n"
        "{% if m.role == 'assistant' and loop.index0 > ns.at %}<think>\n</think>\n{% endif %}"
        "{{ m.content }}{% for call in m.tool_calls or [] %}<tool>{{ call.function.name }}</tool>"
        "{% endfor %}<|eos|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n<think>\n{% endif %}"
    )
    tokenizer.add_tokens(["<think>", "</think>", "<tool>", "</tool>"])
    talk = example(ASK, CALL, RESULT, {**CALL, "content": "Again."}, RESULT, SAYS, AGAIN, SAYS)
    encoded = Tokeniser(tokenizer, max_length=None).encode(talk)
    assert learnt(tokenizer, encoded) == [
        "<tool>weather</tool><|eos|>\n",
        "Again.<tool>weather</tool><|eos|>\n",
        "It rains.<|eos|>\n",
        "</think>\nIt rains.<|eos|>\n",
    ]


def test_what_is_written_away_from_its_turn(tokenizer):
    """Gemma 4 writes the words beside a call behind the answer of the tool."""
    tokenizer.chat_template = CALLING.replace(
        "{% if m.content %}{{ m.content }}{% endif %}",
        "{% if m.content and not m.tool_calls %}{{ m.content }}{% endif %}"
        "{% if m.role == 'tool' and loop.previtem.content %}{{ loop.previtem.content }}{% endif %}",
    )
    tokeniser = Tokeniser(tokenizer, max_length=None)
    assert len(learnt(tokenizer, tokeniser.encode(example(ASK, CALL, RESULT, SAYS)))) == 2
    with pytest.raises(BadRow, match="writes a part of an answer away from it, behind a tool's"):
        tokeniser.encode(example(ASK, {**CALL, "content": "Let me look."}, RESULT, SAYS))


def test_a_second_call_in_one_message_is_not_left_out(tokenizer):
    """Though as many names are there as calls: the answer of the tool has it, too (gpt-oss)."""
    two = {**CALL, "tool_calls": CALL["tool_calls"] * 2}
    talk = example(ASK, CALL, RESULT, two, RESULT, SAYS)
    tokenizer.chat_template = CALLING
    encoded = Tokeniser(tokenizer, max_length=None).encode(talk)
    call = '<call>weather([["city", "Ulm"]])</call>'
    assert learnt(tokenizer, encoded)[:2] == [f"{call}<|eos|>\n", f"{call * 2}<|eos|>\n"]
    tokenizer.chat_template = CALLING.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]")
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{% if m.content %}",
        "{% if m.role == 'tool' %}{{ loop.previtem.tool_calls[0].function.name }}{% endif %}"
        "{% if m.content %}",
    )
    with pytest.raises(BadRow, match="leaves out tool calls"):
        Tokeniser(tokenizer, max_length=None).encode(talk)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([ASK, CALL], "of some/model leaves out tool calls"),
        (
            [ASK, {**SAYS, "reasoning_content": "Wet."}],
            "leaves out reasoning_content of an answer: write it into its content",
        ),
        (
            [ASK, {**SAYS, "thinking": "Wet."}, AGAIN, SAYS],
            "leaves out thinking of an answer: write it into its content",
        ),
    ],
)
@pytest.mark.parametrize("more", [{}, {"mood": "glad"}])
def test_what_a_template_leaves_out_is_not_left_out_in_silence(tokenizer, messages, reason, more):
    tokeniser = Tokeniser(tokenizer, max_length=None, source="some/model")
    with pytest.raises(BadRow, match=reason):
        tokeniser.encode(example(*messages, chat_template_kwargs=more))


def test_a_call_without_arguments_is_told_from_other_faults(tokenizer):
    bare = {**CALL, "tool_calls": [{"function": {"name": "rain"}}]}
    for template in (CALLING, CALLING.replace(".items() | list", "")):
        tokenizer.chat_template = template
        with pytest.raises(
            BadRow, match=r"^a tool call has no arguments \(\{\} stands for none\)$"
        ):
            Tokeniser(tokenizer, max_length=None).encode(example(ASK, bare))


def test_thoughts_that_a_row_itself_leaves_out(tokenizer):
    tokenizer.chat_template = CALLING.replace("if m.reasoning", "if not quick and m.reasoning")
    tokeniser = Tokeniser(tokenizer, max_length=None)
    for more, thought in (({}, "<think>Wet.</think>\n"), ({"quick": True}, "")):
        answer = {**SAYS, "reasoning_content": "Wet."}
        encoded = tokeniser.encode(example(ASK, answer, chat_template_kwargs=more))
        assert learnt(tokenizer, encoded) == [f"{thought}It rains.<|eos|>\n"]


def test_rows_with_tools_in_a_template_of_their_own(tokenizer):
    """Command R has two; transformers takes the second for rows with tools."""
    plain = tokenizer.chat_template
    tokenizer.chat_template = {"default": plain, "tool_use": CALLING}
    tokeniser = Tokeniser(tokenizer, max_length=None)
    encoded = tokeniser.encode(example(ASK, CALL, RESULT, SAYS))
    assert learnt(tokenizer, encoded)[1] == "It rains.<|eos|>\n"
    without = tokeniser.encode(example(ASK, SAYS, tools=None))
    tokenizer.chat_template = plain
    usual = Tokeniser(tokenizer, max_length=None).encode(example(ASK, SAYS, tools=None))
    assert without.input_ids.tolist() == usual.input_ids.tolist()


def test_arguments_of_the_template(tokenizer):
    tokenizer.chat_template = "{{ mood | default('calm') }}\n" + CALLING
    tokeniser = Tokeniser(tokenizer, max_length=None)
    for more, start in (({}, "calm\n"), ({"chat_template_kwargs": {"mood": "glad"}}, "glad\n")):
        ids = tokeniser.encode(example(ASK, SAYS, **more)).input_ids
        assert tokenizer.decode(ids).startswith(start)


TEMPLATES = Path(find_spec("trl").origin).parent / "chat_templates" if find_spec("trl") else None
FAMILIES = {  # families whose templates write calls, and how they begin an answer
    "qwen2_5": "",
    "qwen3": "<think>\n\n</think>\n\n",
    "qwen3_5_think": "<think>\n",
    "glm4moe": "<think></think>",
    "gptoss": "<|start|>assistant",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_real_templates_against_those_with_marks(tokenizer, family):
    """TRL has of each a second one that marks answers: what we find in the first is marked there.

    Where the first does not ask for an answer with all that comes before its words, as Qwen's with
    the start of a thought, the marks include that.
    """
    plain, marked = ((TEMPLATES or Path()) / f"{family}{end}.jinja" for end in ("", "_training"))
    if not (plain.is_file() and marked.is_file()):
        pytest.skip(f"this TRL has no templates of {family}")
    special = ["<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>", "<|user|>", "<|observation|>"]
    special += ["<|message|>", "<|channel|>", "<|call|>", "<|return|>", "<|assistant|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    talk = example(ASK, CALL, RESULT, SAYS, AGAIN, CALL, RESULT, {**SAYS, "content": "Yes."})
    found = []
    for file in (plain, marked):
        tokenizer.chat_template = file.read_text(encoding="utf-8")
        encoded = Tokeniser(tokenizer, max_length=None, source=family).encode(talk)
        found.append(learnt(tokenizer, encoded))
    ours, theirs = found
    assert len(ours) == len(theirs) == 4
    for mine, own, words in zip(ours, theirs, ["Ulm", "It rains.", "Ulm", "Yes."], strict=True):
        assert words in mine
        assert "rain" not in mine.replace("It rains.", "")
        assert mine.strip("\n") in own or own.removeprefix(FAMILIES[family]).strip("\n") in mine
