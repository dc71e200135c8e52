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
    ("columns with unknown names", rows({"foo": "a", "bar": "b"}), SELECT, 3, 'a.jsonl: cannot tell prompt from response. Columns: foo, bar.\nGive --prompt-column and --response-column (or --text-column for plain text).'),
    ("two columns that could be the response", rows(PAIR | {"completion": "c"}), SELECT, 3, 'a.jsonl: cannot tell prompt from response: more than one column matches. Columns: prompt, response, completion.\nGive --prompt-column (or --prompt-template) and --response-column.'),
    ("a column that belongs to the prompt", rows({"instruction": "a", "context": "c", "response": "b"}), SELECT, 3, "a.jsonl: the prompt seems to be instruction, which leaves out 'context'.\nGive --prompt-template '{instruction}\\n{context}' to include it, or --prompt-column instruction to leave it out."),
    ("responses of which some are not wanted", rows(PAIR | {"label": False}), SELECT, 3, "a.jsonl: 'label' seems to say which responses are wanted, and all would be learnt.\nLeave out rows of unwanted ones, or give --response-column response to learn them all."),
    ("a prompt column that does not exist", {}, f"{TRAIN} --prompt-column promt", 3, "train.jsonl: unknown column 'promt'; did you mean 'prompt'? It has: prompt, response"),
    ("a response column that does not exist", {}, f"{TRAIN} --response-column answer", 3, "train.jsonl: unknown column 'answer'. It has: prompt, response"),
    ("an unknown format", {}, f"{TRAIN} --input-format alpacca", 2, "unknown format 'alpacca'; did you mean 'alpaca'? Valid: alpaca, messages, messages-pair, prompt-response, sharegpt, text"),
    ("a format whose columns are missing", {}, f"{TRAIN} --input-format alpaca", 3, "train.jsonl: unknown column 'instruction'. It has: prompt, response"),
    ("a text column in an Alpaca file", rows({"instruction": "a", "output": "b"}), f"{SELECT} --input-format alpaca --text-column output", 2, "--text-column does not apply to the format 'alpaca'. Leave one of them out."),
    ("a prompt column and a template", {}, f"{TRAIN} --prompt-column prompt --prompt-template '{{prompt}}'", 2, '--prompt-column and --prompt-template cannot be combined.'),
    ("a template without a column", {}, f"{TRAIN} --prompt-template hello", 2, "--prompt-template 'hello' names no {column}."),
    ("a template with an open brace", {}, f"{TRAIN} --prompt-template '{{prompt'", 2, "--prompt-template '{prompt': expected '}' before end of string. A brace as text is doubled: {{ }}."),
    ("a template with a conversion", {}, f"{TRAIN} --prompt-template '{{prompt!r}}'", 2, "--prompt-template '{prompt!r}': write columns as {name}, without formats or conversions."),
    ("a template with a column that does not exist", {}, f"{TRAIN} --prompt-template '{{question}}'", 3, "train.jsonl: unknown column 'question'. It has: prompt, response"),
    ("an id twice", rows(PAIR | {"id": 7}, PAIR | {"id": 7}), f"{SELECT} --id-column id", 3, "a.jsonl: line 1 (row 0) and line 2 (row 1) have the same id '7' in column 'id'. Make the ids unique, or leave --id-column out."),
    ("a row without an id", rows(PAIR | {"id": 7}, PAIR | {"id": None}), f"{SELECT} --id-column id", 3, "a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): column 'id' contains no id\nFix them, or leave them out with --on-bad-row skip."),
    ("a source column that does not exist", {}, f"{TRAIN} --source-column origin", 3, "train.jsonl: unknown column 'origin'. It has: prompt, response"),
    ("a quota column that does not exist", {}, f"{TRAIN} --quota-column origin", 3, "train.jsonl has no column 'origin' for quotas; it has: prompt, response"),
    ("a response that is empty", rows(PAIR, {"prompt": "a", "response": ""}), SELECT, 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): response is empty\nFix them, or leave them out with --on-bad-row skip.'),
    ("a response of white space", rows(PAIR, {"prompt": "a", "response": " \n"}), SELECT, 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): response is empty\nFix them, or leave them out with --on-bad-row skip.'),
    ("a response that is null", rows(PAIR, {"prompt": "a", "response": None}), SELECT, 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): response is missing\nFix them, or leave them out with --on-bad-row skip.'),
    ("a response that is missing", rows(PAIR, {"prompt": "a"}), SELECT, 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): response is missing\nFix them, or leave them out with --on-bad-row skip.'),
    ("a response that is a number", rows(PAIR, {"prompt": "a", "response": 4}), SELECT, 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): response is not text but a number\nFix them, or leave them out with --on-bad-row skip.'),
    ("a response that is an object of nulls", rows(PAIR, {"prompt": "a", "response": {"text": None}}), SELECT, 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): response is not text but an object\nFix them, or leave them out with --on-bad-row skip.'),
    ("a prompt that is a list", rows(PAIR, {"prompt": ["a"], "response": "b"}), SELECT, 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): prompt is not text but a list\nFix them, or leave them out with --on-bad-row skip.'),
    ("half of a surrogate pair in a response", rows(PAIR, {"prompt": "a", "response": "\ud83d"}), SELECT, 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): contains half of a surrogate pair, which is not valid text\nFix them, or leave them out with --on-bad-row skip.'),
    ("no usable row", rows({"prompt": "a", "response": ""}, {"prompt": "b"}), SELECT, 3, 'a.jsonl: 2 of 2 rows cannot be used:\n  a.jsonl, line 1 (row 0): response is empty\n  a.jsonl, line 2 (row 1): response is missing\nNo usable row is left. Check the format, the columns and the maximum length.'),
    ("plain text that is empty", rows({"text": "a"}, {"text": ""}), SELECT, 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): text is empty\nFix them, or leave them out with --on-bad-row skip.'),
    ("messages that are text", rows({"messages": [USER, {"role": "assistant", "content": "a"}]}, {"messages": "hello"}), SELECT, 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): messages is not a list but text\nFix them, or leave them out with --on-bad-row skip.'),
    ("a message with an unknown role", chat({"role": "wizard", "content": "q"}), SELECT, 3, "a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): message 1 has an unknown role 'wizard'\nFix them, or leave them out with --on-bad-row skip."),
    ("a call of a tool without a name", chat(USER, {"role": "assistant", "content": "", "tool_calls": [{}]}), SELECT, 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): message 2 has a tool call without the name of a function\nFix them, or leave them out with --on-bad-row skip.'),
    ("an answer of another weight", chat(USER, {"role": "assistant", "content": "a", "weight": 0.5}), SELECT, 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): message 2 has weight 0.5: only 0 and 1 are known\nFix them, or leave them out with --on-bad-row skip.'),
    ("tools that are no list", rows({"messages": [USER, {"role": "assistant", "content": "a"}]}, {"messages": [USER, {"role": "assistant", "content": "a"}], "tools": {"name": "f"}}), SELECT, 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): tools is not a list of objects\nFix them, or leave them out with --on-bad-row skip.'),
    ("conversations under another name", rows({"conversation": [USER, {"role": "assistant", "content": "a"}]}), SELECT, 3, 'a.jsonl: cannot tell prompt from response. Columns: conversation.\nGive --prompt-column and --response-column (or --text-column for plain text, --messages-column for the conversations in conversation).'),
    ("a message with an image", chat({"role": "user", "content": [{"type": "image_url"}]}), SELECT, 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): message 1 contains something other than text: a part of type \'image_url\'\nFix them, or leave them out with --on-bad-row skip.'),
    ("a message without content", chat(USER, {"role": "assistant", "content": None}), SELECT, 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): message 2: content is missing\nFix them, or leave them out with --on-bad-row skip.'),
    ("a message that is text", chat("hello"), SELECT, 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): message 1 is not an object\nFix them, or leave them out with --on-bad-row skip.'),
    ("a conversation without an answer", chat(USER), SELECT, 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): response is missing (no assistant turn)\nFix them, or leave them out with --on-bad-row skip.'),
    ("a conversation with an empty answer", chat(USER, {"role": "assistant", "content": " "}), SELECT, 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): response is empty\nFix them, or leave them out with --on-bad-row skip.'),
    ("a messages column that does not exist", {}, f"{TRAIN} --messages-column chat", 3, "train.jsonl: unknown column 'chat'. It has: prompt, response"),
    ("ShareGPT turns with an unknown speaker", rows({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, {"conversations": [{"from": "alien", "value": "q"}]}), SELECT, 3, "a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): message 1 has an unknown from 'alien'\nFix them, or leave them out with --on-bad-row skip."),
    ("messages for a model without a chat template", chat(USER, {"role": "assistant", "content": "a"}) | {"base": without_template}, MODELS.replace("small small", "small base"), 3, 'the tokenizer of base has no chat template, which messages need. Use an instruct model of the family, or give prompt and response columns.'),
    ("a prompt longer than the maximum length", rows(PAIR, {"prompt": "word " * 50, "response": "b"}), f"{MODELS} --max-length 20", 3, 'a.jsonl: 1 of 2 rows cannot be used:\n  a.jsonl, line 2 (row 1): response is entirely cut off by the maximum length 20 (103 tokens come before it)\nFix them, or leave them out with --on-bad-row skip.'),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_it_is_refused(case, refused):
    refused(case)
