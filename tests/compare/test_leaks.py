import json

import pytest

from staff.compare.leaks import count_leaks
from staff.data.files import open_source
from staff.data.records import RecordOptions


@pytest.fixture
def leaks(tmp_path):
    def count(train, test, **options):
        sources = []
        for name, rows in (("train", train), ("test", test)):
            path = tmp_path / f"{name}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            sources.append(open_source(path))
        return count_leaks(sources[:1], sources[1], RecordOptions(**options))

    return count


def row(prompt, response="r"):
    return {"prompt": prompt, "response": response}


def test_prompts_are_compared_whatever_the_answer_and_the_spacing(leaks):
    train = [row("What is  a\ncoreset?"), row("Other"), row("Other")]
    test = [row("what is a coreset?", "x"), row("What is a core set?"), row("Other"), row("other ")]
    assert leaks(train, test) == (3, 4)
    assert leaks(train, [row("new")]) == (0, 1)
    assert leaks([row("Cafe\u0301")], [row("CAF\u00c9"), row("cafe")]) == (1, 2)


def test_of_a_conversation_all_before_the_last_answer_counts(leaks):
    def chat(*turns):
        roles = ("user", "assistant") * len(turns)
        pairs = zip(roles, turns, strict=False)
        return {"messages": [{"role": r, "content": c} for r, c in pairs]}

    train = [chat("hi", "hello", "how are you", "fine")]
    assert leaks(train, [chat("hi", "hello", "how are you", "bad")]) == (1, 1)
    assert leaks(train, [chat("hi", "hi there", "how are you", "fine")]) == (0, 1)
    assert leaks(train, [chat("hi", "hello")]) == (1, 1)  # every answer is learnt
    assert leaks([chat("hi", "hello")], train) == (0, 1)
    # The same question, once as a chat and once in columns.
    assert leaks([row("Hi")], [chat("hi", "hello")]) == (1, 1)
    assert leaks([chat("hi", "hello")], [row("hi"), row("user: hi")]) == (1, 2)


def test_plain_text_is_compared_whole_and_bad_rows_are_passed_over(leaks):
    train = [{"text": "One text"}, {"text": ""}]
    test = [{"text": "one TEXT"}, {"text": "one text more"}, {"text": ""}, {"text": "  "}]
    assert leaks(train, test) == (1, 2)


def test_other_columns(leaks):
    rows = [{"q": "a", "a": "b"}]
    assert leaks(rows, rows, prompt_column="q", response_column="a") == (1, 1)
