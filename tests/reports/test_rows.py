import json

import numpy as np
import pytest

from staff.data.files import open_source
from staff.reports import rows as module
from staff.reports.rows import Texts, choose_rows, clip_turns, fitting_limit, read_texts


def test_a_few_of_each_region_half_of_them_chosen():
    region = np.repeat([2, 0, -1], [100, 3, 50])
    chosen = np.zeros(153, bool)
    chosen[:60] = True
    rows = choose_rows(region, chosen, seed=0, shown=30)
    assert list(rows) == [0, 2, -1]  # what was cut comes last
    assert rows[0].tolist() == [100, 101, 102]
    assert len(rows[2]) == 10 == len(rows[-1])
    assert chosen[rows[2]].sum() == 5
    assert all((region[at] == group).all() for group, at in rows.items())


def test_what_one_half_lacks_the_other_fills():
    region, chosen = np.zeros(40, int), np.arange(40) < 38
    rows = choose_rows(region, chosen, seed=0, shown=20)[0]
    assert (len(rows), chosen[rows].sum()) == (20, 18)
    rows = choose_rows(region, ~chosen, seed=0, shown=20)[0]
    assert (len(rows), chosen[rows].sum()) == (20, 18)


def test_more_regions_than_can_be_shown():
    rows = choose_rows(np.arange(1000) - 1, np.ones(1000, bool), seed=0, shown=20)
    assert len(rows) == 10
    assert -1 in rows  # the cut


@pytest.mark.parametrize("later", ["", '{"prompt": "never read"}\n'])
def test_texts_of_the_wanted_rows(tmp_path, later):
    path = tmp_path / "d.jsonl"
    path.write_text(
        '{"prompt": "a", "response": "b"}\nnot json\n{"prompt": "c", "response": "d"}\n' + later
    )
    reading = {
        "format": "prompt-response",
        "prompt_column": "prompt",
        "response_column": "response",
    }
    assert read_texts(open_source(path), [2, 1, 0], reading) == {
        0: Texts((("", "a"),), "b"),
        2: Texts((("", "c"),), "d"),
    }
    assert read_texts(open_source(path), [], reading) == {}


def test_turns_but_the_last_answer_are_the_prompt(tmp_path):
    turns = [("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v"), ("assistant", "b")]
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]}) + "\n")
    reading = {"format": "messages", "messages_column": "messages"}
    assert read_texts(open_source(path), [0], reading) == {0: Texts(tuple(turns[:-1]), "b")}


def test_plain_text_has_no_prompt(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text('{"text": "t"}\n')
    assert read_texts(open_source(path), [0], {"format": "text"}) == {0: Texts((), "t")}


def test_long_texts_are_clipped_and_say_so():
    turns = [("user", "x" * 8), ("assistant", "y" * 8), ("user", "z")]
    assert clip_turns(turns, 100) == turns
    assert clip_turns(turns, 10) == [
        ("user", "x" * 8), ("assistant", "yy […, 8 characters]"), ("", "[… 1 more turn]"),
    ]  # fmt: skip
    assert len(clip_turns([("user", "")] * 99, 10)) == module.MAX_TURNS + 1


def test_the_limit_counts_what_is_written():
    text = Texts((), "<" * 1000)  # &lt;
    fits = module.TEXT_BYTES // (4 * 500 + 30)
    assert fitting_limit([text] * fits) == 500
    assert fitting_limit([text] * (fits + 10)) == 250
    assert fitting_limit([text] * fits * 100) == 60
    assert fitting_limit([]) == 500
