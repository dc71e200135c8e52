"""Records that cannot be understood: columns, chat messages, templates, ids, empty responses."""

import json
import shutil
from pathlib import Path

import pytest

GROUP = "Formats"
RANDOM = "--method random --keep 0.5 --out out"


def rows(*records):
    return {"a.jsonl": "".join(json.dumps(record) + "\n" for record in records)}


def chat(*messages):
    good = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    return rows(good, {"messages": list(messages)})


def without_template(path):
    shutil.copytree(FAMILY / "small", path)
    (path / "chat_template.jinja").unlink()


FAMILY = Path(__file__).parents[2] / "src" / "staff" / "assets" / "family"
PAIR = {"prompt": "a", "response": "b"}
USER = {"role": "user", "content": "q"}
SELECT = f"staff select a.jsonl {RANDOM}"
TRAIN = f"staff select train.jsonl {RANDOM}"
MODELS = "staff select a.jsonl --small small --target target --keep 0.5 --out out"

CASES = [
    ("columns with names that say nothing", rows({"foo": "a", "bar": "b"}), SELECT, 0, "?"),
    ("two columns that could be the response", rows(PAIR | {"completion": "c"}), SELECT, 0, "?"),
    ("a prompt column that is not there", {}, f"{TRAIN} --prompt-column promt", 0, "?"),
    ("a response column that is not there", {}, f"{TRAIN} --response-column answer", 0, "?"),
    ("a format that is not known", {}, f"{TRAIN} --input-format alpacca", 0, "?"),
    ("a format whose columns are not there", {}, f"{TRAIN} --input-format alpaca", 0, "?"),
    ("a text column in an Alpaca file", rows({"instruction": "a", "output": "b"}), f"{SELECT} --input-format alpaca --text-column output", 0, "?"),
    ("a prompt column and a template", {}, f"{TRAIN} --prompt-column prompt --prompt-template '{{prompt}}'", 0, "?"),
    ("a template without a column", {}, f"{TRAIN} --prompt-template hello", 0, "?"),
    ("a template with an open brace", {}, f"{TRAIN} --prompt-template '{{prompt'", 0, "?"),
    ("a template with more than names", {}, f"{TRAIN} --prompt-template '{{prompt!r}}'", 0, "?"),
    ("a template that names a column that is not there", {}, f"{TRAIN} --prompt-template '{{question}}'", 0, "?"),
    ("an id twice", rows(PAIR | {"id": 7}, PAIR | {"id": 7}), f"{SELECT} --id-column id", 0, "?"),
    ("a row without an id", rows(PAIR | {"id": 7}, PAIR | {"id": None}), f"{SELECT} --id-column id", 0, "?"),
    ("a source column that is not there", {}, f"{TRAIN} --source-column origin", 0, "?"),
    ("a quota column that is not there", {}, f"{TRAIN} --quota-column origin", 0, "?"),
    ("a response that is empty", rows(PAIR, {"prompt": "a", "response": ""}), SELECT, 0, "?"),
    ("a response of white space", rows(PAIR, {"prompt": "a", "response": " \n"}), SELECT, 0, "?"),
    ("a response that is null", rows(PAIR, {"prompt": "a", "response": None}), SELECT, 0, "?"),
    ("a response that is missing", rows(PAIR, {"prompt": "a"}), SELECT, 0, "?"),
    ("a response that is a number", rows(PAIR, {"prompt": "a", "response": 4}), SELECT, 0, "?"),
    ("a response that is an object of nulls", rows(PAIR, {"prompt": "a", "response": {"text": None}}), SELECT, 0, "?"),
    ("a prompt that is a list", rows(PAIR, {"prompt": ["a"], "response": "b"}), SELECT, 0, "?"),
    ("half of a surrogate pair in a response", rows(PAIR, {"prompt": "a", "response": "\ud83d"}), SELECT, 0, "?"),
    ("no row that can be used", rows({"prompt": "a", "response": ""}, {"prompt": "b"}), SELECT, 0, "?"),
    ("plain text that is empty", rows({"text": "a"}, {"text": ""}), SELECT, 0, "?"),
    ("messages that are text", rows({"messages": [USER, {"role": "assistant", "content": "a"}]}, {"messages": "hello"}), SELECT, 0, "?"),
    ("a message with a role that is not known", chat({"role": "wizard", "content": "q"}), SELECT, 0, "?"),
    ("a message that calls a tool", chat(USER, {"role": "assistant", "content": "", "tool_calls": [{}]}), SELECT, 0, "?"),
    ("a message with an image", chat({"role": "user", "content": [{"type": "image_url"}]}), SELECT, 0, "?"),
    ("a message without content", chat(USER, {"role": "assistant", "content": None}), SELECT, 0, "?"),
    ("a message that is text", chat("hello"), SELECT, 0, "?"),
    ("a conversation without an answer", chat(USER), SELECT, 0, "?"),
    ("a conversation with an empty answer", chat(USER, {"role": "assistant", "content": " "}), SELECT, 0, "?"),
    ("a messages column that is not there", {}, f"{TRAIN} --messages-column chat", 0, "?"),
    ("ShareGPT turns of nobody known", rows({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, {"conversations": [{"from": "alien", "value": "q"}]}), SELECT, 0, "?"),
    ("messages for a model without a chat template", chat(USER, {"role": "assistant", "content": "a"}) | {"base": without_template}, MODELS.replace("small small", "small base"), 0, "?"),
    ("a prompt longer than the maximum length", rows(PAIR, {"prompt": "word " * 50, "response": "b"}), f"{MODELS} --max-length 20", 0, "?"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_it_is_refused(case, refused):
    refused(case)
