"""Which format and columns are found, and what is refused."""

import json

import pytest

from staff.data.columns import resolve_options
from staff.data.records import RecordOptions
from staff.errors import ConfigError, DataError

MESSAGE = [{"role": "user", "content": "a"}]
TURN = [{"from": "human", "value": "a"}]
ANSWER = {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("record", "format"),
    [
        ({"prompt": "a", "response": "b"}, "prompt-response"),
        ({"prompt": "a", "completion": "b", "template": "x"}, "prompt-response"),
        ({"question": "a", "answer": "b"}, "prompt-response"),
        ({"input": "a", "output": "b"}, "prompt-response"),
        ({"problem": "a", "solution": "b", "answer": "c"}, "prompt-response"),
        ({"inputs": "a", "targets": "b"}, "prompt-response"),
        ({"prompt": '[{"a": 1}]', "response": "b"}, "prompt-response"),
        ({"instruction": "a", "input": "", "output": "b"}, "alpaca"),
        ({"instruction": "a", "output": "b", "text": "c"}, "alpaca"),
        ({"messages": MESSAGE, "prompt": "a"}, "messages"),
        ({"conversations": TURN, "system": "s"}, "sharegpt"),
        ({"conversations": MESSAGE}, "messages"),
        ({"messages": json.dumps(MESSAGE)}, "messages"),
        ({"conversations": json.dumps(TURN)}, "sharegpt"),
        ({"prompt": json.dumps(MESSAGE), "completion": json.dumps(MESSAGE)}, "messages-pair"),
        ({"prompt": json.dumps(MESSAGE), "completion": "b"}, "prompt-response"),
        ({"prompt": MESSAGE, "completion": MESSAGE}, "messages-pair"),
        ({"text": "a"}, "text"),
        ({"text": "a", "url": "b", "timestamp": "c", "score": 0.5}, "text"),
    ],
)
def test_detected(record, format):
    assert resolve_options([record], RecordOptions()).format == format


def test_chat_column_is_found_by_its_content():
    for format, content in (("messages", MESSAGE), ("sharegpt", TURN)):
        for column in ("messages", "conversations"):
            for asked in (None, format):
                found = resolve_options([{column: content}], RecordOptions(format=asked))
                assert (found.format, found.messages_column) == (format, column)


def test_columns_of_two_lists_of_messages():
    record = {"question": MESSAGE, "reply": MESSAGE, "system": "s"}
    for options in (
        RecordOptions(prompt_column="question", response_column="reply"),
        RecordOptions(response_column="reply", format="messages-pair"),
        RecordOptions(response_column="reply"),
    ):
        found = resolve_options([record], options)
        read = found.format, found.prompt_column, found.response_column
        assert read == ("messages-pair", "question", "reply")
    with pytest.raises(ConfigError, match="--prompt-template does not apply"):
        resolve_options([record], RecordOptions(format="messages-pair", prompt_template="{system}"))


def test_conversations_in_another_column_are_told_of():
    chats = [*MESSAGE, ANSWER], [*TURN, {"from": "gpt", "value": "b"}]
    record = dict(zip(("conversation", "chosen"), chats, strict=True))
    record |= {"id": 1, "moderation": [{"flagged": False}]}
    said = r"--messages-column for the conversations in conversation, chosen\)"
    with pytest.raises(DataError, match=said):
        resolve_options([record], RecordOptions())
    assert resolve_options([record], RecordOptions(messages_column="chosen")).format == "sharegpt"


def test_halves_of_conversations_are_not_told_as_whole_ones():
    """As one column, `chosen` of a preference file would be learnt without its prompt."""
    record = {"prompt": MESSAGE, "chosen": [ANSWER], "rejected": [ANSWER]}
    with pytest.raises(DataError, match=r"--response-column \(or --text-column for plain text\)"):
        resolve_options([record], RecordOptions())
    options = RecordOptions(prompt_column="prompt", response_column="chosen")
    assert resolve_options([record], options).format == "messages-pair"


@pytest.mark.parametrize("label", [0, True, [1, 2]])
def test_a_text_with_a_label_is_no_plain_text(label):
    record = {"text": "a", "label": label}
    with pytest.raises(DataError, match="cannot tell prompt from response"):
        resolve_options([record], RecordOptions())
    assert resolve_options([record], RecordOptions(text_column="text")).format == "text"
    assert resolve_options([{"text": "a", "label": None}], RecordOptions()).format == "text"


def test_a_file_that_is_one_object_is_told_of():
    record = {"version": 1, "data": [{"prompt": "a", "response": "b"}]}
    with pytest.raises(DataError, match="rows are the list in 'data', write that list alone"):
        resolve_options([record], RecordOptions())
    with pytest.raises(DataError, match="Give --prompt-column"):
        resolve_options([record, record], RecordOptions())


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


@pytest.mark.parametrize(
    ("record", "beside", "template"),
    [
        (
            {"instruction": "a", "context": "c", "response": "b"},
            "context",
            "{instruction}\\n{context}",
        ),
        ({"instruction": "a", "input": "c", "response": "b"}, "input", "{instruction}\\n{input}"),
        (
            {"system_prompt": "c", "question": "a", "response": "b"},
            "system_prompt",
            "{system_prompt}\\n{question}",
        ),
        ({"question": "a", "answer": "b", "Options": "c"}, "Options", "{question}\\n{Options}"),
        (
            {"system": "c", "instruction": "a", "input": "d", "output": "b"},
            "system",
            "{system}\\n{instruction}\\n{input}",
        ),
    ],
)
def test_a_guessed_prompt_leaves_nothing_out(record, beside, template):
    empty = {**record, beside: None}
    with pytest.raises(DataError) as error:
        resolve_options([empty, record], RecordOptions(), name="a.jsonl")
    assert f"leaves out {beside!r}.\nGive --prompt-template '{template}'" in str(error.value)
    said = str(error.value).split()
    if "--prompt-column" in said:
        leave = RecordOptions(prompt_column=said[said.index("--prompt-column") + 1])
    else:
        leave = RecordOptions(format=said[said.index("--input-format") + 1])
    for options in (RecordOptions(prompt_template=template), leave):
        assert resolve_options([record], options).format in ("prompt-response", "alpaca")
    for nothing in (None, "", " ", [], {}, 17):
        assert resolve_options([{**record, beside: nothing}], RecordOptions())
    assert resolve_options([record], RecordOptions(source_column=beside))


def test_responses_that_are_not_wanted_are_not_learnt_unasked():
    """TRL's files for KTO; a label of another kind is a column like any other."""
    record = {"prompt": "a", "completion": "b", "label": False}
    with pytest.raises(DataError, match="give --response-column completion to learn them all"):
        resolve_options([{**record, "label": None}, record], RecordOptions())
    assert resolve_options([record], RecordOptions(response_column="completion"))
    assert resolve_options([{**record, "label": 1}], RecordOptions())


def test_a_template_is_told_with_all_that_a_guessed_prompt_leaves_out():
    record = {"instruction": "a", "context": "c", "system_prompt": "s", "output": "b"}
    said = (
        "which leaves out 'context' and 'system_prompt'.\nGive --prompt-template "
        "'{system_prompt}\\n{instruction}\\n{context}' to include"
    )
    with pytest.raises(DataError) as error:
        resolve_options([record], RecordOptions())
    assert said in str(error.value)


@pytest.mark.parametrize("choices", [["x", "y"], {"A": "x"}])
def test_no_template_is_told_for_what_is_no_text(choices):
    """A template takes text alone: no row could be used."""
    record = {"question": "a", "choices": choices, "answer": "b"}
    said = "Write it as text and name it in --prompt-template to include it, or give --prompt"
    with pytest.raises(DataError, match=said):
        resolve_options([{**record, "choices": None}, record], RecordOptions())


def test_columns_may_appear_in_later_records():
    found = resolve_options([{"prompt": "a"}, {"response": "b"}], RecordOptions())
    assert found.format == "prompt-response"


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
