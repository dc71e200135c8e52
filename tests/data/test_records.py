"""Each record format, and each way a row cannot be used."""

import json
import uuid
from dataclasses import replace

import pytest

from staff.data.files import open_source
from staff.data.raw import RawRecord
from staff.data.records import RecordOptions, content_id, fill_template, to_example
from staff.data.writers import write_records
from staff.errors import BadRow
from staff.types import Example, Message

PAIR = RecordOptions(format="prompt-response")
TEMPLATE = RecordOptions(
    format="prompt-response", prompt_template="{instruction}\\n{input}", response_column="output"
)
ALPACA = RecordOptions(format="alpaca")
CHAT = RecordOptions(format="messages")
CHATS = RecordOptions(format="messages-pair", prompt_column="prompt", response_column="completion")
ASKED, ANSWER = [{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}]
SHAREGPT = RecordOptions(format="sharegpt")
TEXT = RecordOptions(format="text")
DEEP = '{"a":' * 500 + "1" + "}" * 500


def turns(*pairs):
    return {"messages": [{"role": r, "content": c} for r, c in pairs]}


def talk(*pairs):
    return {"conversations": [{"from": r, "value": c} for r, c in pairs]}


@pytest.mark.parametrize(
    ("record", "options", "prompt", "response"),
    [
        ({"prompt": "a", "response": " b\n"}, PAIR, "a", " b\n"),
        ({"prompt": "", "response": "b"}, PAIR, "", "b"),
        ({"instruction": "do {it}", "input": "x", "output": "y"}, TEMPLATE, "do {it}\nx", "y"),
        ({"instruction": "do", "input": None, "output": "y"}, TEMPLATE, "do\n", "y"),
        ({"instruction": "do", "input": "x", "output": "y"}, ALPACA, "do\nx", "y"),
        ({"instruction": "do", "input": "", "output": "y"}, ALPACA, "do", "y"),
        ({"instruction": "do", "output": "y"}, ALPACA, "do", "y"),
        ({"text": "all of it"}, TEXT, "", "all of it"),
    ],
)
def test_text_formats(record, options, prompt, response):
    example = to_example(record, options)
    assert (example.prompt, example.response) == (prompt, response)


@pytest.mark.parametrize(
    ("record", "options", "messages"),
    [
        (
            turns(("developer", "s"), ("user", "a"), ("assistant", "b")),
            CHAT,
            [("system", "s"), ("user", "a"), ("assistant", "b")],
        ),
        (
            talk(("human", "a"), ("gpt", "b"), ("human", "c")),
            SHAREGPT,
            [("user", "a"), ("assistant", "b"), ("user", "c")],
        ),
        (
            {"system": "s", **talk(("human", "a"), ("gpt", "b"))},
            SHAREGPT,
            [("system", "s"), ("user", "a"), ("assistant", "b")],
        ),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                    }
                ]
            },
            CHAT,
            [("assistant", "ab")],
        ),
        (
            {"system": "s", **turns(("prompter", "a"), ("assistant", "b"))},
            CHAT,
            [("system", "s"), ("user", "a"), ("assistant", "b")],
        ),
        ({"messages": json.dumps(ASKED + ANSWER)}, CHAT, [("user", "a"), ("assistant", "b")]),
        (
            {
                "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}],
                "completion": [{"role": "assistant", "content": "b"}],
            },
            CHATS,
            [("system", "s"), ("user", "a"), ("assistant", "b")],
        ),
    ],
)
def test_chat_formats(record, options, messages):
    assert to_example(record, options).messages == tuple(Message(*m) for m in messages)


@pytest.mark.parametrize(
    ("record", "options", "reason"),
    [
        ({"prompt": "a"}, PAIR, "response is missing"),
        ({"prompt": "a", "response": None}, PAIR, "response is missing"),
        ({"prompt": "a", "response": ""}, PAIR, "response is empty"),
        ({"prompt": "a", "response": " \n"}, PAIR, "response is empty"),
        ({"prompt": "a", "response": 3}, PAIR, "response is not text but a number"),
        ({"prompt": ["a"], "response": "b"}, PAIR, "prompt is not text but a list"),
        ({"response": "b"}, PAIR, "prompt is missing"),
        ({"prompt": "a", "response": "\ud800"}, PAIR, "half of a surrogate pair"),
        (
            {"instruction": "a", "input": {"x": 1}, "output": "b"},
            ALPACA,
            "input is not text but an object",
        ),
        ({"instruction": "", "output": "b"}, ALPACA, "instruction is empty"),
        ({"instruction": "a", "output": True}, ALPACA, "response is not text but true or false"),
        ({"instruction": 5, "output": "b"}, TEMPLATE, "instruction is not text but a number"),
        ({"text": ""}, TEXT, "text is empty"),
        ({}, CHAT, "messages is missing"),
        ({"messages": "a"}, CHAT, "messages is not a list"),
        ({"messages": "[{'role': 'user'}]"}, CHAT, "messages is not a list but text"),
        ({"messages": [{"input": "a", "output": "b"}]}, CHAT, "has no role, only input, output"),
        ({"messages": []}, CHAT, "no assistant turn"),
        (turns(("user", "a")), CHAT, "no assistant turn"),
        (turns(("user", "a"), ("assistant", "")), CHAT, "response is empty"),
        (turns(("user", "a"), ("assistant", None)), CHAT, "message 2: content is missing"),
        (turns(("user", 1), ("assistant", "b")), CHAT, "message 1: content is not text"),
        (turns(("narrator", "a"), ("assistant", "b")), CHAT, "unknown role 'narrator'"),
        (turns(("a\n" * 999, "user")), CHAT, "unknown role '" + r"a\\n" * 19 + "a…"),
        ({"messages": [{"a" * 999: "b"}]}, CHAT, f"has no role, only {'a' * 59}…"),
        ({"messages": ["a"]}, CHAT, "message 1 is not an object"),
        ({"prompt": "a", "completion": ANSWER}, CHATS, "prompt is not a list but text"),
        ({"prompt": ASKED}, CHATS, "completion is missing"),
        ({"prompt": ASKED, "completion": ["a"]}, CHATS, "message 2 is not an object"),
        ({"prompt": ASKED, "completion": ASKED}, CHATS, "no assistant turn"),
        ({"prompt": ASKED + ANSWER, "completion": ANSWER}, CHATS, "prompt contains an answer"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            CHAT,
            "message 1 contains something other than text: a part of type 'image_url'",
        ),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]},
            CHAT,
            "message 1 has a tool call without the name of a function",
        ),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": "f()"}]},
            CHAT,
            "message 1 has a tool call without the name of a function",
        ),
        (
            {"messages": [{"role": "assistant", "content": "a", "weight": 0}]},
            CHAT,
            "no answer is in the loss: all have weight 0",
        ),
        (
            {"messages": [{"role": "assistant", "content": "a", "weight": 0.5}]},
            CHAT,
            r"message 1 has weight 0\.5: only 0 and 1 are known",
        ),
        (
            {"messages": [{"role": "assistant", "content": "a", "thinking": "\ud800"}]},
            CHAT,
            "half of a surrogate pair",
        ),
        (
            {**turns(("user", "a"), ("assistant", "b")), "tools": [json.loads(DEEP)]},
            CHAT,
            "tools is nested more than 100 levels deep",
        ),
        (
            {**turns(("user", "a"), ("assistant", "b")), "tools": [{"x": {1: "a"}}]},
            CHAT,
            "tools has a key that is no text: 1",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": DEEP}]}]},
            CHAT,
            "message 1: tool_calls is nested more than 100 levels deep",
        ),
        (
            {
                "messages": [  # as a map in a table is read
                    {"role": "assistant", "tool_calls": [{"name": "f", "arguments": [("a", "b")]}]}
                ]
            },
            CHAT,
            "message 1: tool_calls contains a tuple, which is not JSON: write its text",
        ),
        (
            {
                **turns(("user", "a"), ("assistant", "b")),
                "chat_template_kwargs": {"max_length": 5},  # TRL would cut the row
            },
            CHAT,
            "chat_template_kwargs has max_length, which is not one for rows to give",
        ),
        (
            {**turns(("user", "a"), ("assistant", "b")), "tools": [3]},
            CHAT,
            "tools is not a list of objects",
        ),
        (
            talk(("human", "a"), ("gpt", "b")) | {"tools": "all of them"},
            SHAREGPT,
            "tools is not a list of objects",
        ),
        (
            {"prompt": ASKED, "completion": ANSWER, "chat_template_kwargs": "x"},
            CHATS,
            "chat_template_kwargs is not an object but text",
        ),
        (
            {**turns(("user", "a"), ("assistant", "b")), "chat_template_kwargs": {"messages": []}},
            CHAT,
            "chat_template_kwargs has messages, which is not one for rows to give",
        ),
        (talk(("human", "a"), ("gpt", "")), SHAREGPT, "response is empty"),
        (
            talk(("human", "<image>\na"), ("gpt", "b")) | {"image": "1.jpg"},
            SHAREGPT,
            "has a place for its image",
        ),
        ({"prompt": "<audio>a", "response": "b", "audios": ["1.wav"]}, PAIR, "for its audio"),
    ],
)
def test_bad_rows(record, options, reason):
    with pytest.raises(BadRow, match=reason):
        to_example(record, options)


def test_what_a_table_has_for_no_tools_and_no_thoughts():
    nothing = {"tool_calls": None, "reasoning_content": None, "thinking": "", "weight": 1}
    for tools in (None, "", "[]", "null", [], {}):
        record = {"messages": [{"role": "assistant", "content": "a", **nothing}], "tools": tools}
        assert to_example(record, CHAT).messages == (Message("assistant", "a"),)


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def test_calls_of_tools_as_templates_take_them():
    """Arguments as an object, whatever they came as; a null of a table is none."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": [1, None]}}}
    for given in (
        call,
        {**call, "function": {"name": "f", "arguments": '{"x": [1, null]}'}, "index": None},
        {**call, "function": {**call["function"], "description": None}},
    ):
        asks = {"role": "assistant", "content": None, "tool_calls": [given], "thinking": ""}
        answers = {"role": "tool", "content": "y", "tool_call_id": "1", "name": None}
        example = to_example({"messages": [*ASKED, asks, answers], "tools": [TOOL]}, CHAT)
        _, calls, result = example.messages
        assert calls == Message("assistant", "", {"tool_calls": [call]})
        assert result == Message("tool", "y", {"tool_call_id": "1"})
        assert example.given == {"tools": [TOOL]}
    asks = {"role": "assistant", "content": "c", "tool_calls": [{"name": "f", "arguments": "{"}]}
    assert to_example({"messages": [asks]}, CHAT).messages[0].more == {  # which is no JSON
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{"}}]
    }
    asked = ("function_call", '{"name": "f", "arguments": {"x": 1}}'), ("observation", "y")
    calls, result, _ = to_example(talk(*asked, ("gpt", "b")), SHAREGPT).messages
    assert (calls.role, calls.content, result) == ("assistant", "", Message("tool", "y"))
    assert calls.more["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": 1}}
    for text in ("f(x)", "", None):
        with pytest.raises(BadRow, match="message 1"):
            to_example(talk(("function_call", text), ("gpt", "b")), SHAREGPT)
    older = {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}
    assert to_example({"messages": [older]}, CHAT).messages[0].more == {
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]
    }


def test_a_call_without_arguments_is_the_same_in_every_kind_of_file(tmp_path):
    """A table has null there, which templates wrote as an argument: the call was learnt with it."""
    calls = [{"function": {"name": "f", "arguments": {"x": 1}}}, {"function": {"name": "g"}}]
    asks = [{"role": "assistant", "tool_calls": [call]} for call in calls]
    records = [RawRecord(n, None, {"messages": [*ASKED, one]}) for n, one in enumerate(asks)]
    found = []
    for kind in ("jsonl", "parquet"):
        write_records(tmp_path / f"a.{kind}", records, format=kind)
        rows = open_source(tmp_path / f"a.{kind}").records()
        found.append([to_example(row.record, CHAT) for row in rows])
    assert found[0] == found[1]
    assert found[0][1].messages[-1].more["tool_calls"][0]["function"] == {"name": "g"}


def test_what_else_a_template_gets():
    asks = {"role": "assistant", "content": "b", "reasoning_content": "r", "other": 1}
    record = {
        "messages": json.dumps([*ASKED, asks]),
        "tools": json.dumps([TOOL]),
        "chat_template_kwargs": {"enable_thinking": False, "budget": None},
    }
    example = to_example(record, CHAT)
    assert example.messages[1] == Message("assistant", "b", {"reasoning_content": "r"})
    assert example.given == {"tools": [TOOL], "enable_thinking": False}


def test_an_answer_of_weight_0_is_not_learnt():
    first = {"role": "assistant", "content": "b", "weight": 0}
    last = {"role": "assistant", "content": "d", "weight": 1}
    messages = to_example({"messages": [*ASKED, first, *ASKED, last]}, CHAT).messages
    assert [message.learnt for message in messages] == [True, False, True, True]


def test_a_picture_without_a_place_in_the_text_is_a_column_as_any_other():
    for more in ({"image": "1.jpg"}, {"images": []}):
        text = "a" if more.get("image") else "<image>"
        assert to_example({"prompt": text, "response": "b", **more}, PAIR).prompt == text


def test_named_columns_appear_in_the_reason():
    with pytest.raises(BadRow, match=r"response is missing \(column 'summary'\)"):
        to_example(
            {"d": "a"},
            RecordOptions(format="prompt-response", prompt_column="d", response_column="summary"),
        )


def test_ids_and_sources():
    record = {"prompt": "a", "response": "b", "n": 7, "from": "web"}
    example = to_example(
        record, RecordOptions(format="prompt-response", id_column="n", source_column="from")
    )
    assert (example.id, example.source) == ("7", "web")
    for record["from"], source in ((None, None), (3, "3"), ("", "")):
        options = RecordOptions(format="prompt-response", source_column="from")
        assert to_example(record, options).source == source
    record["from"] = "\ud800"
    with pytest.raises(BadRow, match="half of a surrogate pair"):
        to_example(record, options)
    for bad in (None, "", True):
        with pytest.raises(BadRow, match="column 'n' contains no id"):
            to_example(record | {"n": bad}, RecordOptions(format="prompt-response", id_column="n"))
    numbered = RecordOptions(format="prompt-response", id_column="n")
    with pytest.raises(BadRow, match=r"id 3.0 \(column 'n'\) is no text or whole number"):
        to_example(record | {"n": 3.0, "from": "web"}, numbered)
    key = uuid.UUID(int=7)  # as Parquet may hold one
    assert to_example(record | {"n": key, "from": "web"}, numbered).id == str(key)


def test_content_id_is_of_the_content_only():
    example = Example(id="", prompt="a", response="b")
    assert content_id(example) == content_id(Example(id="x", prompt="a", response="b", source="y"))
    others = [
        Example(id="", prompt="ab", response=""),
        Example(id="", prompt="", response="ab"),
        Example(id="", messages=(Message("user", "a"), Message("assistant", "b"))),
        Example(id="", messages=(Message("assistant", "a"), Message("user", "b"))),
    ]
    others += [
        replace(others[2], given={"tools": []}),
        replace(others[2], messages=(Message("user", "a"), Message("assistant", "b", {"n": 1}))),
        replace(
            others[2], messages=(Message("user", "a"), Message("assistant", "b", learnt=False))
        ),
    ]
    assert len({content_id(e) for e in (example, *others)}) == 8
    assert content_id(example) == "6232661aa6e8e307"  # stored ids must stay valid


def test_template_values_are_not_templates():
    assert fill_template("{{{a}}} {b}", {"a": "{b}", "b": "x\\n"}) == "{{b}} x\\n"
