"""From a row of a file to an `Example`: the known record formats.

A format is one function `(record, options) -> Example` and one line in `FORMATS`.
"""

import hashlib
import json
import string
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from json.encoder import encode_basestring_ascii as quoted
from typing import Any
from uuid import UUID

from staff.data.json_array import once
from staff.errors import BadRow
from staff.types import Example, Message
from staff.visible import shortened

Record = Mapping[str, Any]

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",  # whose text is the call in JSON
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}

MEDIA = ("image", "video", "audio")  # columns beside texts that say <image> where one belongs
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
# Fields of a message that chat templates read beside role and content.
FIELDS = (*THOUGHTS, "tool_calls", "tool_call_id", "name")
DEEPEST = 100  # levels of lists and objects in what a template gets: Python ends at about 300
# What is given to a template in another way, or is an argument of transformers' own function (which
# TRL calls with the column) and would cut the row.
RESERVED = frozenset(
    "self messages conversation conversations chat_template tools add_generation_prompt "  # noqa: SIM905
    "continue_final_message return_assistant_tokens_mask tokenize padding truncation max_length "
    "return_tensors return_dict tokenizer_kwargs processor_kwargs".split()
)


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """How to read a record; None = find out.

    format: a name in `FORMATS`. prompt_template: like ``"{instruction}\\n{input}"``, over columns
    (an absent or null one is empty; a backslash and an n, as a shell passes it, is a line feed).
    id_column: holds a unique id; source_column: where a row came from.
    """

    format: str | None = None
    prompt_column: str | None = None
    response_column: str | None = None
    prompt_template: str | None = None
    id_column: str | None = None
    source_column: str | None = None
    messages_column: str | None = None
    text_column: str | None = None


def from_prompt_response(record: Record, options: RecordOptions) -> Example:
    """`prompt_column` (or `prompt_template`) and `response_column`."""
    prompt_column, response_column = _pair_columns(options)
    if options.prompt_template is not None:
        prompt = fill_template(options.prompt_template, record)
    else:
        prompt = _text(record, prompt_column, "prompt")
    response = _filled(_text(record, response_column, "response"), "response")
    return Example(id="", prompt=prompt, response=response)


def _pair_columns(options: RecordOptions) -> tuple[str, str]:
    return options.prompt_column or "prompt", options.response_column or "response"


def from_alpaca(record: Record, options: RecordOptions) -> Example:
    """`instruction`, optional `input` on a line of its own, and `output`."""
    prompt = _filled(_text(record, "instruction", "instruction"), "instruction")
    if record.get("input"):
        prompt += "\n" + _text(record, "input", "input")
    response = _filled(_text(record, options.response_column or "output", "response"), "response")
    return Example(id="", prompt=prompt, response=response)


def from_messages(record: Record, options: RecordOptions) -> Example:
    """OpenAI chat: `messages`, a list of {role, content}, and an optional `system` text."""
    return _chat(record, options.messages_column or "messages", "role", "content")


def from_sharegpt(record: Record, options: RecordOptions) -> Example:
    """ShareGPT chat: `conversations`, a list of {from, value}, and an optional `system` text."""
    return _chat(record, options.messages_column or "conversations", "from", "value")


def from_messages_pair(record: Record, options: RecordOptions) -> Example:
    """TRL's conversational prompt and completion: two lists of {role, content}."""
    prompt_column, response_column = _pair_columns(options)
    prompt = _turns(record, prompt_column, "role", "content")
    if "assistant" in {message.role for message in prompt}:
        raise BadRow(
            f"{prompt_column} contains an answer, which would be in the loss: if that is intended, "
            "give the conversation as messages"
        )
    response = _turns(record, response_column, "role", "content", first=len(prompt) + 1)
    return _conversation((*prompt, *response), record)


def from_text(record: Record, options: RecordOptions) -> Example:
    """Plain text: everything is learnt."""
    text = _filled(_text(record, options.text_column or "text", "text"), "text")
    return Example(id="", response=text)


FORMATS: dict[str, Callable[[Record, RecordOptions], Example]] = {
    "prompt-response": from_prompt_response,
    "alpaca": from_alpaca,
    "messages": from_messages,
    "sharegpt": from_sharegpt,
    "messages-pair": from_messages_pair,
    "text": from_text,
}
PAIRED = ("prompt-response", "messages-pair")  # the formats of a prompt and a response column
CHAT = ("messages", "sharegpt", "messages-pair")  # the formats of conversations


def to_example(record: Record, options: RecordOptions) -> Example:
    """Turn a record into an `Example` whose id is the id column's, or the content's hash.

    `options` must be resolved (`resolve_options`). Raises `BadRow` with the reason.
    """
    example = FORMATS[options.format or ""](record, options)
    texts = (example.prompt, example.response, *(m.content for m in example.messages))
    for text in (*texts, *_json_texts(example)):
        if not text.isascii():
            _refuse_half_characters(text)
    for kind in MEDIA:
        held = record.get(kind) or record.get(f"{kind}s")
        if held and any(f"<{kind}>" in text for text in texts):
            raise BadRow(f"has a place for its {kind} (<{kind}>), which is not supported")
    if options.id_column:
        given = record.get(options.id_column)
        if isinstance(given, float):
            raise BadRow(f"id {given} (column {options.id_column!r}) is no text or whole number")
        if isinstance(given, bool) or not isinstance(given, str | int | UUID) or given == "":
            raise BadRow(f"column {options.id_column!r} contains no id")
        _refuse_half_characters(str(given))
        name = str(given)
    else:
        name = content_id(example)
    source = record.get(options.source_column) if options.source_column else None
    if source is not None:
        source = str(source)
        _refuse_half_characters(source)
    return replace(example, id=name, source=source)


def content_id(example: Example) -> str:
    """16 hex digits of the SHA-256 of what is learnt from: texts, roles, tools, nothing else."""
    # As json.dumps writes the three of them, in a tenth of its time.
    turns = ", ".join(
        f"[{quoted(m.role)}, {quoted(m.content)}{_more(m.more)}{'' if m.learnt else ', 0'}]"
        for m in example.messages
    )
    texts = f"{quoted(example.prompt)}, {quoted(example.response)}"
    content = f"[{texts}, [{turns}]{_more(example.given)}]"
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _more(values: Mapping[str, Any]) -> str:
    return f", {json.dumps(values, sort_keys=True)}" if values else ""


def _json_texts(example: Example) -> Iterator[str]:
    """What a chat template gets beside texts, as JSON."""
    for values in (example.given, *(message.more for message in example.messages)):
        if values:
            yield json.dumps(values, ensure_ascii=False)


def fill_template(template: str, record: Record) -> str:
    """The prompt of one record. Values are put in as they are: braces in them mean nothing."""
    template = template.replace("\\n", "\n").replace("\\t", "\t")
    return "".join(
        literal
        + (_text(record, column, column) if column and record.get(column) is not None else "")
        for literal, column, _, _ in string.Formatter().parse(template)
    )


def _text(record: Record, column: str, what: str) -> str:
    value = record.get(column)
    if isinstance(value, str):
        return value
    where = "" if column == what else f" (column {column!r})"
    if value is None:
        raise BadRow(f"{what} is missing{where}")
    raise BadRow(f"{what} is not text but {_kind_of(value)}{where}")


def _filled(text: str, what: str) -> str:
    if not text.strip():
        raise BadRow(f"{what} is empty")
    return text


def _kind_of(value: object) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, list):
        return "a list"
    return "an object" if isinstance(value, dict) else f"a {type(value).__name__}"


def _refuse_half_characters(text: str) -> None:
    """JSON can spell half of a surrogate pair; no tokenizer can read it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRow("contains half of a surrogate pair, which is not valid text") from error


def _chat(record: Record, column: str, role_key: str, text_key: str) -> Example:
    example = _conversation(_turns(record, column, role_key, text_key), record)
    system = record.get("system")
    if isinstance(system, str) and system and example.messages[0].role != "system":
        return replace(example, messages=(Message("system", system), *example.messages))
    return example


def _turns(
    record: Record, column: str, role_key: str, text_key: str, *, first: int = 1
) -> tuple[Message, ...]:
    """The messages in a column, numbered from `first` on in what is said of them."""
    turns = turns_in(record.get(column))
    if turns is None:
        raise BadRow(f"{column} is missing")
    if not isinstance(turns, list):
        raise BadRow(f"{column} is not a list but {_kind_of(turns)}")
    return tuple(_message(turn, n, role_key, text_key) for n, turn in enumerate(turns, first))


def turns_in(value: object) -> object:
    """What a column holds, as a list where it is the text of one: CSV can hold no other."""
    return _from_json(value, "[")


def _from_json(value: object, start: str) -> object:
    """The value, or what it spells where it is the text of a list or an object in JSON."""
    if isinstance(value, str) and value.lstrip().startswith(start):
        with suppress(ValueError, RecursionError):
            return json.loads(value, object_pairs_hook=once)
    return value


def _conversation(messages: tuple[Message, ...], record: Record) -> Example:
    answers = [message for message in messages if message.role == "assistant"]
    if not answers:
        raise BadRow("response is missing (no assistant turn)")
    if not any(answer.learnt for answer in answers):
        raise BadRow("no answer is in the loss: all have weight 0")
    if not any(a.learnt and (a.content.strip() or a.more.keys() - {"name"}) for a in answers):
        raise BadRow("response is empty")
    return Example(id="", messages=messages, given=_given(record))


def _given(record: Record) -> dict[str, Any]:
    """What a chat template gets beside the messages, of the columns that TRL names so."""
    given: dict[str, Any] = {}
    if tools := _json_column(record, "tools", "["):
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            raise BadRow("tools is not a list of objects")
        _refuse_unspellable(tools, "tools")
        given["tools"] = tools
    if more := _json_column(record, "chat_template_kwargs", "{"):
        if not isinstance(more, dict):
            raise BadRow(f"chat_template_kwargs is not an object but {_kind_of(more)}")
        _refuse_unspellable(more, "chat_template_kwargs")
        if taken := sorted(RESERVED & more.keys()):
            raise BadRow(f"chat_template_kwargs has {taken[0]}, which is not one for rows to give")
        given |= {name: value for name, value in more.items() if value is not None}
    return given


def _json_column(record: Record, name: str, start: str) -> object:
    """What a column holds or spells; pandas writes nothing as null."""
    value = _from_json(record.get(name), start)
    return None if value == "null" else value


def _refuse_unspellable(value: object, what: str, *, level: int = 0) -> None:
    """Only what JSON has, and no deeper than any template could write it.

    A map of Arrow's would be written as a list of pairs, and a date as its type.
    """
    if level > DEEPEST:
        raise BadRow(f"{what} is nested more than {DEEPEST} levels deep")
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise BadRow(f"{what} has a key that is no text: {shortened(repr(name))}")
            _refuse_unspellable(inner, what, level=level + 1)
    elif isinstance(value, list):
        for inner in value:
            _refuse_unspellable(inner, what, level=level + 1)
    elif not (value is None or isinstance(value, str | int | float)):
        raise BadRow(f"{what} contains a {type(value).__name__}, which is not JSON: write its text")


def _message(turn: object, number: int, role_key: str, text_key: str) -> Message:
    if not isinstance(turn, dict):
        raise BadRow(f"message {number} is not an object")
    role = turn.get(role_key)
    if role_key not in turn:
        names = shortened(", ".join(turn)) or "nothing"
        raise BadRow(f"message {number} has no {role_key}, only {names}")
    if not isinstance(role, str) or role not in ROLES:
        raise BadRow(f"message {number} has an unknown {role_key} {shortened(repr(role))}")
    learnt = True
    if ROLES[role] == "assistant" and turn.get("weight") is not None:  # OpenAI's
        if turn["weight"] not in (0, 1):
            weight = shortened(repr(turn["weight"]))
            raise BadRow(f"message {number} has weight {weight}: only 0 and 1 are known")
        learnt = turn["weight"] == 1
    more = {name: turn[name] for name in FIELDS if turn.get(name)}
    content = turn.get(text_key)
    calls = turn.get("tool_calls") or turn.get("function_call")
    if role == "function_call":
        calls, content = content, None
    if calls:
        more["tool_calls"] = _calls(calls, number)
    for name, value in more.items():
        _refuse_unspellable(value, f"message {number}: {name}")
    if content is None and "tool_calls" in more:
        content = ""
    if isinstance(content, list):  # OpenAI's content parts
        parts = [part if isinstance(part, dict) else {} for part in content]
        for part in parts:
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                kind = part.get("type")
                named = f": a part of type {shortened(repr(kind))}" if isinstance(kind, str) else ""
                raise BadRow(f"message {number} contains something other than text{named}")
        content = "".join(part["text"] for part in parts)
    if not isinstance(content, str):
        lack = "missing" if content is None else f"not text but {_kind_of(content)}"
        raise BadRow(f"message {number}: {text_key} is {lack}")
    return Message(ROLES[role], content, more, learnt)


def _calls(calls: object, number: int) -> list[dict[str, Any]]:
    """Tool calls as chat templates take them: OpenAI's, whose arguments may be the text of JSON.

    A function by itself is a call of it.
    """
    calls = _from_json(turns_in(calls), "{")
    found = []
    for call in calls if isinstance(calls, list) else [calls]:
        given = call if isinstance(call, dict) else {}
        given = given if "function" in given else {"type": "function", "function": given}
        function = given["function"]
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRow(f"message {number} has a tool call without the name of a function")
        # Null is none: a column of structs has every field of each.
        function = {name: value for name, value in function.items() if value is not None}
        if "arguments" in function:
            function = {**function, "arguments": _from_json(function["arguments"], "{")}
        given = {name: value for name, value in given.items() if value is not None}
        found.append({**given, "function": function})
    return found
