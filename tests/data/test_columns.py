"""Which format and columns are found, and what is refused."""

import json

import pytest

from staff.data.columns import detect_format, resolve_options
from staff.data.records import RecordOptions
from staff.errors import ConfigError, DataError

MESSAGE = [{"role": "user", "content": "a"}]
TURN = [{"from": "human", "value": "a"}]


@pytest.mark.parametrize(
    ("record", "format"),
    [
        ({"prompt": "a", "response": "b"}, "prompt-response"),
        ({"prompt": "a", "completion": "b", "template": "x"}, "prompt-response"),
        ({"question": "a", "answer": "b"}, "prompt-response"),
        ({"input": "a", "output": "b"}, "prompt-response"),
        ({"instruction": "a", "input": "", "output": "b"}, "alpaca"),
        ({"instruction": "a", "output": "b", "text": "c"}, "alpaca"),
        ({"messages": MESSAGE, "prompt": "a"}, "messages"),
        ({"conversations": TURN, "system": "s"}, "sharegpt"),
        ({"conversations": MESSAGE}, "messages"),
        ({"text": "a"}, "text"),
        ({"text": "a", "url": "b", "timestamp": "c", "score": 0.5}, "text"),
    ],
)
def test_detected(record, format):
    assert detect_format([record], RecordOptions()) == format


def test_chat_column_is_found_by_its_content():
    for format, content in (("messages", MESSAGE), ("sharegpt", TURN)):
        for column in ("messages", "conversations"):
            for asked in (None, format):
                found = resolve_options([{column: content}], RecordOptions(format=asked))
                assert (found.format, found.messages_column) == (format, column)


def test_real_files(rows):
    def head(name):
        return [json.loads(line) for line in (rows / name).read_text("utf-8").split("\n") if line]

    found = resolve_options(head("gsm8k.jsonl"), RecordOptions())
    assert (found.prompt_column, found.response_column) == ("question", "answer")
    # An intent set with a `text` column is no plain text, and mr/ref say nothing by their names.
    for name in ("snips.jsonl", "e2e_nlg.jsonl"):
        with pytest.raises(DataError, match="cannot tell prompt from response"):
            resolve_options(head(name), RecordOptions())
    options = RecordOptions(prompt_column="mr", response_column="ref")
    assert resolve_options(head("e2e_nlg.jsonl"), options).format == "prompt-response"


@pytest.mark.parametrize(
    ("options", "columns"),
    [
        (
            RecordOptions(prompt_column="dialogue", response_column="summary"),
            ("dialogue", "summary"),
        ),
        (RecordOptions(prompt_column="dialogue"), ("dialogue", "answer")),
        (RecordOptions(response_column="summary"), ("question", "summary")),
        (RecordOptions(prompt_template="{dialogue}", response_column="summary"), (None, "summary")),
        (RecordOptions(format="prompt-response"), ("question", "answer")),
    ],
)
def test_filled_in(options, columns):
    record = {"dialogue": "a", "summary": "b", "question": "c", "answer": "d"}
    found = resolve_options([record], options)
    assert (found.prompt_column, found.response_column) == columns
    assert found.format == "prompt-response"


def test_columns_may_appear_in_later_records():
    assert detect_format([{"prompt": "a"}, {"response": "b"}], RecordOptions()) == "prompt-response"


@pytest.mark.parametrize(
    "options",
    [
        RecordOptions(response_column="sumary"),
        RecordOptions(prompt_column="sumary"),
        RecordOptions(prompt_template="{sumary}", response_column="dialogue"),
        RecordOptions(text_column="sumary"),
        RecordOptions(messages_column="sumary"),
        RecordOptions(id_column="sumary"),
        RecordOptions(source_column="sumary"),
    ],
)
def test_wrong_column_names_what_is_there_and_the_nearest(options):
    record = {"dialogue": "a", "summary": "b", "prompt": "c", "response": "d"}
    with pytest.raises(DataError) as error:
        resolve_options([record], options, name="train.jsonl")
    assert str(error.value) == (
        "train.jsonl: unknown column 'sumary'; did you mean 'summary'? "
        "It has: dialogue, prompt, response, summary"
    )


def test_columns_of_a_named_format():
    for format, column in (("alpaca", "instruction"), ("messages", "messages"), ("text", "text")):
        with pytest.raises(DataError, match=f"unknown column '{column}'"):
            resolve_options([{"a": "x"}], RecordOptions(format=format))
    found = resolve_options([{"a": "x", "instruction": "y"}], RecordOptions(response_column="a"))
    assert (found.format, found.response_column) == ("alpaca", "a")


def test_more_than_one_reading_is_refused():
    record = {"prompt": "a", "response": "b", "completion": "c"}
    with pytest.raises(DataError, match="more than one column matches"):
        resolve_options([record], RecordOptions())
    assert resolve_options([record], RecordOptions(response_column="completion"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (RecordOptions(format="alpacca"), "did you mean 'alpaca'"),
        (RecordOptions(format="text", prompt_column="prompt"), "--prompt-column does not apply"),
        (
            RecordOptions(text_column="prompt", response_column="response"),
            "--response-column does not",
        ),
        (RecordOptions(prompt_template="{prompt}", prompt_column="prompt"), "cannot be combined"),
        (RecordOptions(prompt_template="no column"), "names no {column}"),
        (RecordOptions(prompt_template="{prompt"), "A brace as text is doubled"),
        (RecordOptions(prompt_template="{prompt!r}"), "without formats"),
        (RecordOptions(prompt_template="{}"), "without formats"),
    ],
)
def test_options_that_do_not_fit(options, reason):
    with pytest.raises(ConfigError, match=reason):
        resolve_options([{"prompt": "a", "response": "b"}], options)


def test_template_reaches_no_attributes():
    with pytest.raises(DataError, match=r"unknown column 'prompt\.__class__'"):
        resolve_options(
            [{"prompt": "a", "response": "b"}], RecordOptions(prompt_template="{prompt.__class__}")
        )
