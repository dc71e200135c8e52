"""Responses as they were written, in the order of the store."""

import pytest

from staff.data.files import open_source
from staff.data.prepare import prepare
from staff.data.records import RecordOptions
from staff.data.references import last_responses
from staff.data.tokenise import Tokeniser


@pytest.fixture
def responses(jsonl, tokenizer, tmp_path):
    def read(records, *, max_length=None, **options):
        source = open_source(str(jsonl(records)))
        tokeniser = Tokeniser(tokenizer, max_length=max_length)
        prepared = prepare(
            source, RecordOptions(**options), [tokeniser], on_bad_row="skip", out=tmp_path / "t"
        )
        return last_responses(source, prepared)

    return read


def test_unusable_rows_are_passed_over(responses):
    rows = [
        {"prompt": "a", "response": " as <|eos|> it is \n"},
        {"prompt": "b", "response": ""},
        "no JSON",
        {"prompt": "c", "response": "last"},
    ]
    assert responses(rows) == [" as <|eos|> it is \n", "last"]


def test_a_cut_response_is_given_whole(responses):
    long = "one two three four five six seven eight nine ten " * 5
    assert responses([{"prompt": "a", "response": long}], max_length=20) == [long]


def turn(role, content):
    return {"role": role, "content": content}


def test_the_last_assistant_turn_of_a_conversation(responses):
    talk = [turn("user", "a"), turn("assistant", "b"), turn("user", "c"), turn("assistant", "d")]
    assert responses([{"messages": talk}, {"messages": [*talk, turn("user", "e")]}]) == ["d", "d"]


def test_a_cut_conversation_may_have_lost_its_last_turn(responses):
    talk = [
        turn("user", "a"),
        turn("assistant", "b"),
        turn("user", "c" * 90),
        turn("assistant", "d"),
    ]
    assert responses([{"messages": talk}], max_length=20) == [None]


def test_text_has_no_prompt(responses):
    assert responses([{"text": "all of it"}]) == [None]
