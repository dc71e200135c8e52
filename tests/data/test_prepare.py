"""A source becomes token stores; every row is accounted for."""

import json
from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from staff.data.files import open_source
from staff.data.prepare import check_columns, prepare
from staff.data.records import RecordOptions
from staff.data.tokenise import Tokeniser
from staff.errors import DataError
from staff.types import IGNORE

E2E = RecordOptions(prompt_column="mr", response_column="ref")
PAIR = {"prompt": "a b", "response": "c d"}


@pytest.fixture
def tokeniser(tokenizer):
    return Tokeniser(tokenizer, max_length=200, source="small")


def pair(n):
    return {"prompt": f"number {n}", "response": f"it is {n}"}


def test_real_rows(rows, tokeniser, tokenizer, tmp_path):
    source = open_source(rows / "e2e_nlg.jsonl")
    done = prepare(source, E2E, [tokeniser], out=tmp_path)
    assert (done.rows_read, done.usable, done.rejected, done.duplicates) == (40, 40, 0, 0)
    assert done.format == "prompt-response"
    assert done.rejected_path is None
    [store] = done.stores
    assert done.tokens == (store.lengths.sum(),)
    assert [p.name for p in tmp_path.iterdir()] == ["tokens.arrow"]
    for raw, example in zip(source.records(), store.get(range(40)), strict=True):
        learnt = example.labels[example.labels != IGNORE]
        assert tokenizer.decode(learnt) == raw.record["ref"] + "<|eos|>"


def test_ids_follow_the_content(jsonl, tokeniser, tmp_path):
    records = [pair(1), pair(2), pair(1), pair(1) | {"note": "x"}, pair(3)]
    first = prepare(open_source(jsonl(records)), RecordOptions(), [tokeniser], out=tmp_path / "a")
    ids = first.stores[0].ids
    assert first.duplicates == 2
    assert len(set(ids)) == 5
    assert [i.split("-")[1] for i in ids] == ["0", "0", "1", "2", "0"]
    path = jsonl(records[::-1], "b.jsonl")
    second = prepare(open_source(path), RecordOptions(), [tokeniser], out=tmp_path / "b")
    assert set(second.stores[0].ids) == set(ids)


def test_sources_of_usable_rows(jsonl, tokeniser, tmp_path):
    records = [pair(0) | {"from": "a"}, pair(1), {"prompt": "p", "response": "", "from": "bad"},
               pair(2) | {"from": 3}]  # fmt: skip
    options = RecordOptions(source_column="from")
    read = {"tokenisers": [tokeniser], "on_bad_row": "skip", "out": tmp_path}
    assert prepare(open_source(jsonl(records)), options, **read).sources == ("a", None, "3")
    assert prepare(open_source(jsonl(records)), RecordOptions(), **read).sources is None


def test_given_ids(jsonl, tokeniser, tmp_path):
    records = [pair(1) | {"id": "x"}, pair(1) | {"id": 7}]
    options = RecordOptions(id_column="id")
    done = prepare(open_source(jsonl(records)), options, [tokeniser], out=tmp_path)
    assert done.stores[0].ids == ("x", "7")
    assert done.duplicates == 1
    path = jsonl([*records, pair(2) | {"id": "7"}])
    with pytest.raises(
        DataError, match=r"line 2 \(row 1\) and line 3 \(row 2\) have the same id '7'"
    ):
        prepare(open_source(path), options, [tokeniser], out=tmp_path / "b", on_bad_row="skip")
    one_line = tmp_path / "one.json"
    one_line.write_text(json.dumps([records[0], records[0]]))
    with pytest.raises(DataError, match=r"row 0.* and .*row 1.* have the same id 'x'"):
        prepare(open_source(one_line), options, [tokeniser], out=tmp_path / "b")


BAD = [
    PAIR,
    {"prompt": "a"},
    '{"prompt": ',
    {"prompt": "a", "response": ""},
    b"\xff",
    "[]",
    {"prompt": "a", "response": 3},
    {"prompt": "word " * 300, "response": "x"},
    PAIR,
]


def test_bad_rows_are_one_error(jsonl, tokeniser, tmp_path):
    path = jsonl(BAD)
    out = tmp_path / "out"
    with pytest.raises(DataError) as error:
        prepare(open_source(path), RecordOptions(), [tokeniser], out=out)
    lines = str(error.value).split("\n")
    assert lines[0] == f"{path}: 7 of 9 rows cannot be used; the first 5:"
    assert lines[1] == f"  {path}, line 2 (row 1): response is missing"
    assert lines[2].startswith(f"  {path}, line 3 (row 2): broken JSON: ")
    assert lines[3:6] == [
        f"  {path}, line 4 (row 3): response is empty",
        f"  {path}, line 5 (row 4): invalid UTF-8 at byte 1 of the line",
        f"  {path}, line 6 (row 5): not a JSON object",
    ]
    assert "--on-bad-row skip" in lines[6]
    assert len(lines) == 7
    assert list(out.iterdir()) == []


def test_bad_rows_can_be_skipped(jsonl, tokeniser, tmp_path):
    out = tmp_path / "out"
    done = prepare(
        open_source(jsonl(BAD)), RecordOptions(), [tokeniser], out=out, on_bad_row="skip"
    )
    assert (done.rows_read, done.usable, done.rejected, done.duplicates) == (9, 2, 7, 1)
    assert done.stores[0].rows.tolist() == [0, 8]
    assert done.rejected_path == out / "rejected.jsonl"
    rejected = [json.loads(line) for line in done.rejected_path.read_text("utf-8").splitlines()]
    assert [(r["row"], r["line"]) for r in rejected] == [(n, n + 1) for n in range(1, 8)]
    assert rejected[0]["record"] == {"prompt": "a"}
    assert rejected[1]["record"] == '{"prompt": '
    assert rejected[3]["record"] == "\ufffd"
    assert "entirely cut off by the maximum length 200" in rejected[6]["reason"]
    again = prepare(
        open_source(jsonl([PAIR])), RecordOptions(), [tokeniser], out=out, on_bad_row="skip"
    )
    assert again.rejected_path is None
    assert not (out / "rejected.jsonl").exists()


@pytest.mark.parametrize("id_column", [None, "id"])
def test_duplicates_can_be_skipped(jsonl, tokeniser, tmp_path, id_column):
    """A row of the same contents goes, whatever its id and its other columns; bad rows stop it."""
    records = [pair(n) | {"id": f"r{at}"} for at, n in enumerate([1, 2, 1, 3, 1, 2])]
    options = RecordOptions(id_column=id_column)
    read = {"tokenisers": [tokeniser], "on_duplicate": "skip", "out": tmp_path}
    done = prepare(open_source(jsonl(records)), options, **read)
    assert (done.rows_read, done.usable, done.rejected, done.duplicates) == (6, 3, 3, 3)
    assert done.rows.tolist() == done.stores[0].rows.tolist() == [0, 1, 3]
    rejected = [json.loads(line) for line in done.rejected_path.read_text("utf-8").splitlines()]
    assert [(r["row"], r["line"], r["record"]) for r in rejected] == [
        (n, n + 1, records[n]) for n in (2, 4, 5)
    ]
    assert {r["reason"] for r in rejected} == {"has the contents of an earlier row"}
    none = prepare(open_source(jsonl(records)), options, [], on_duplicate="skip", out=tmp_path)
    assert none.rows.tolist() == [0, 1, 3]
    with pytest.raises(DataError, match=r"1 of 7 rows cannot be used"):
        prepare(open_source(jsonl([*records, {"prompt": "a"}])), options, **read)
    both = prepare(
        open_source(jsonl([{"prompt": "a"}, {"prompt": "a"}, *records])),
        RecordOptions(),
        on_bad_row="skip",
        **read,
    )
    assert (both.usable, both.rejected, both.duplicates) == (3, 5, 3)  # bad ones are no duplicates


def test_no_usable_row(jsonl, tokeniser, tmp_path):
    path = jsonl([{"prompt": "a", "response": ""}])
    with pytest.raises(DataError, match=r"1 of 1 rows cannot be used:[^$]*No usable row is left"):
        prepare(open_source(path), RecordOptions(), [tokeniser], out=tmp_path, on_bad_row="skip")


def test_no_row_at_all(jsonl, tmp_path):
    for name, lines in (("a.jsonl", ["", " "]), ("a.json", ["[]"]), ("a.csv", ["a,b"])):
        with pytest.raises(DataError, match=f"{name} holds no rows"):
            check_columns(open_source(jsonl(lines, name)), RecordOptions())
    with pytest.raises(DataError, match="2 of 2 rows cannot be used"):
        check_columns(open_source(jsonl(["x", "y"])), RecordOptions())


def test_wrong_columns(jsonl, tokeniser, tmp_path):
    with pytest.raises(DataError, match=r"unknown column 'promt'; did you mean 'prompt'\?"):
        prepare(
            open_source(jsonl([PAIR])),
            RecordOptions(prompt_column="promt"),
            [tokeniser],
            out=tmp_path,
        )


def test_a_column_that_a_guessed_prompt_leaves_out_far_below(jsonl, tokeniser, tmp_path):
    path = jsonl([pair(n) | {"context": ""} for n in range(120)] + [pair(120) | {"context": "c"}])
    with pytest.raises(DataError, match=r"which leaves out 'context'\.\nGive --prompt-template"):
        prepare(open_source(path), RecordOptions(), [tokeniser], out=tmp_path / "a")
    new = jsonl([*map(pair, range(120)), pair(120) | {"context": "c"}], name="new.jsonl")
    with pytest.raises(DataError, match="\nWrite context into the first row, too, and give"):
        prepare(open_source(new), RecordOptions(), [tokeniser], out=tmp_path / "a")
    asked = RecordOptions(prompt_column="prompt")
    assert prepare(open_source(path), asked, [tokeniser], out=tmp_path / "a").usable == 121


def test_truncated_rows_are_counted(jsonl, tokenizer, tmp_path):
    tokeniser = Tokeniser(tokenizer, max_length=30)
    long = {"prompt": "a", "response": "word " * 60}
    done = prepare(open_source(jsonl([PAIR, long])), RecordOptions(), [tokeniser], out=tmp_path)
    assert done.truncated == 1
    assert done.stores[0].truncated.tolist() == [False, True]
    assert done.stores[0].lengths.max() == 30


def test_two_tokenisers_that_agree_share_a_store(jsonl, tokeniser, tokenizer_folder, tmp_path):
    twin = Tokeniser(
        AutoTokenizer.from_pretrained(tokenizer_folder), max_length=200, source="target"
    )
    done = prepare(open_source(jsonl([PAIR])), RecordOptions(), [tokeniser, twin], out=tmp_path)
    assert done.stores[0] is done.stores[1]
    assert done.tokens[0] == done.tokens[1]
    assert (tmp_path / "tokens.arrow").exists()


def test_tokenisers_that_differ_in_their_template_share_a_store_of_plain_rows(
    jsonl, tokeniser, tokenizer_folder, tmp_path
):
    instruct = AutoTokenizer.from_pretrained(tokenizer_folder)
    instruct.chat_template = instruct.chat_template + " "
    both = [tokeniser, Tokeniser(instruct, max_length=200, source="target")]
    chat = {"messages": [{"role": r, "content": "hi"} for r in ("user", "assistant")]}
    plain = prepare(open_source(jsonl([PAIR])), RecordOptions(), both, out=tmp_path / "a")
    assert plain.stores[0] is plain.stores[1]
    chats = prepare(open_source(jsonl([chat])), RecordOptions(), both, out=tmp_path / "b")
    assert chats.stores[0] is not chats.stores[1]


def test_a_row_must_suit_every_tokeniser(jsonl, tokenizer, tokeniser, tmp_path):
    short = Tokeniser(tokenizer, max_length=12, source="target")
    records = [PAIR, {"prompt": "word " * 15, "response": "x"}, pair(1)]
    done = prepare(
        open_source(jsonl(records)),
        RecordOptions(),
        [tokeniser, short],
        out=tmp_path,
        on_bad_row="skip",
    )
    assert [s.rows.tolist() for s in done.stores] == [[0, 2], [0, 2]]
    assert done.stores[0].ids == done.stores[1].ids
    reason = json.loads(done.rejected_path.read_text())["reason"]
    assert reason.endswith("(tokenizer of target)")
    assert sorted(p.name for p in tmp_path.glob("*.arrow")) == ["tokens-0.arrow", "tokens-1.arrow"]


def test_conversations(jsonl, tokeniser, tokenizer, tmp_path):
    records = [
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
        {"conversations": [{"from": "human", "value": "hi"}]},
    ]
    done = prepare(
        open_source(jsonl(records)), RecordOptions(), [tokeniser], out=tmp_path, on_bad_row="skip"
    )
    assert (done.format, done.usable, done.rejected) == ("sharegpt", 1, 1)
    [example] = done.stores[0].get([0])
    assert tokenizer.decode(example.labels[example.labels != IGNORE]) == "hello<|eos|>"


@pytest.fixture
def watched():
    """A `Progress` that keeps what it is told in `seen`."""
    from contextlib import contextmanager

    class Watch:
        def __init__(self):
            self.seen = []

        @contextmanager
        def stage(self, name, *, total=None, unit="rows", exact=True):
            self.seen.append(name)
            yield self

        def advance(self, amount=1):
            self.seen.append(amount)

        def note(self, text):
            self.seen.append(text)

    return Watch()


def test_progress_counts_every_row(jsonl, tokeniser, tmp_path, watched):
    source = open_source(jsonl([PAIR] * 700))
    prepare(source, RecordOptions(), [tokeniser], out=tmp_path, progress=watched)
    assert watched.seen == ["read", 512, 188]
    prepare(
        replace(source, note="split train"), RecordOptions(), [], out=tmp_path, progress=watched
    )
    assert watched.seen[3:] == ["read", "split train", 512, 188]


def test_text_that_a_chat_template_made_is_told_of(jsonl, tokeniser, tmp_path, watched):
    """A trainer would take its markers for the tokens that they spell."""
    made = {"text": "<|user|>\nhello<|eos|>\n<|assistant|>\nhi<|eos|>"}
    source = open_source(jsonl([{"text": "hi < | >"}, *[made] * 2]))
    prepare(source, RecordOptions(), [tokeniser, tokeniser], out=tmp_path, progress=watched)
    [read, count, told] = watched.seen
    assert (read, count) == ("read", 3)
    assert told.startswith("2 rows spell special tokens out (<|user|>): they are text in this run")
    chats = [
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "<|eos|>"},
            ]
        }
    ]
    prepare(open_source(jsonl(chats)), RecordOptions(), [tokeniser], out=tmp_path, progress=watched)
    assert watched.seen[-1].startswith("1 row spells special tokens out (<|eos|>)")
