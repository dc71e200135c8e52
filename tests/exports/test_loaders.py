"""Exports opened by LLaMA-Factory and axolotl themselves: `make test-exports` installs those."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from export_records import RECORDS

from staff.data.files import open_source
from staff.data.records import RecordOptions, to_example
from staff.data.tokenise import Tokeniser
from staff.exports.export import export
from staff.models.load import load_tokenizer
from staff.runs.manifest import read_manifest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def loaded(make_run, family):
    """What a trainer makes of an export of records, and the examples that were exported."""

    def load(records, to):
        python = ROOT / "build" / to / "bin" / "python"
        if not python.exists():
            pytest.skip(f"{to} is not installed: make test-exports")
        rows, settings = RECORDS[records]
        run = make_run(rows(), name=records.replace(" ", "-"), **settings)
        export(run, to=to, model=family[1])
        tool = ROOT / "tools" / f"load_by_{to.replace('-', '_')}.py"
        done = subprocess.run(
            [python, tool], capture_output=True, text=True, cwd=run / f"coreset-0.5-{to}",
            env={**os.environ, "DISABLE_VERSION_CHECK": "1", "AXOLOTL_DO_NOT_TRACK": "1",
                 "HF_HOME": str(run / "hf")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        options = RecordOptions(**read_manifest(run)["data"]["reading"])
        found = open_source(run / "coreset-0.5.jsonl").records()
        # The last line: some libraries print as they are imported.
        facts = json.loads(done.stdout.strip().split("\n")[-1])
        return facts, [to_example(raw.record, options) for raw in found]

    return load


@pytest.mark.parametrize("records", RECORDS)
def test_llama_factory_takes_every_row_with_all_its_turns(loaded, records):
    facts, examples = loaded(records, "llama-factory")
    # Its transformers, 5.6 at most, still has that; the one borrowed here may be newer.
    assert set(facts["unknown"]) <= {"warmup_ratio"}
    assert facts["trained"] == len(examples) == 6
    for (messages, system), example in zip(facts["rows"], examples, strict=True):
        turns = [(m["role"], m["content"]) for m in messages]
        if example.messages:
            given = [(m.role, m.content) for m in example.messages if m.role != "system"]
            first = example.messages[0]
            assert (turns, system or "") == (given, first.content if first.role == "system" else "")
        elif example.prompt:
            assert turns == [("user", example.prompt), ("assistant", example.response)]
        else:  # what is learnt from is the prompt, in its stage pt
            assert turns == [("user", example.response)]


@pytest.mark.parametrize("records", RECORDS)
def test_axolotl_learns_what_was_scored(loaded, family, records):
    facts, examples = loaded(records, "axolotl")
    assert facts["unknown"] == []
    tokeniser = Tokeniser(load_tokenizer(family[1]), max_length=512)
    assert len(facts["rows"]) == len(examples) == 6
    for row, example in zip(facts["rows"], examples, strict=True):
        scored = tokeniser.encode(example)
        assert row["input_ids"] == scored.input_ids.tolist()
        assert row["labels"][1:] == scored.labels.tolist()[1:]
