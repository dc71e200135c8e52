"""Exports opened by LLaMA-Factory and axolotl themselves: `make test-exports` installs those."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from export_records import RECORDS, TOOLS

from staff.data.files import open_source
from staff.data.records import RecordOptions, to_example
from staff.data.tokenise import Tokeniser
from staff.exports.export import export
from staff.models.load import load_tokenizer
from staff.runs.manifest import read_manifest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ran(make_run, change_manifest, family, calling):
    """Runs a command of a trainer in its export of records; gives the run and the process.

    quantize: how the run is to have kept its target.
    """

    def run(records, to, *command, quantize="none"):
        python = ROOT / "build" / to / "bin" / "python"
        if not python.exists():
            pytest.skip(f"{to} is not installed: make test-exports")
        rows, settings = (RECORDS | TOOLS)[records]
        folder = make_run(rows(), name=records.replace(" ", "-"), **settings)
        change_manifest(folder, quantize=quantize, batch_size=4, micro_batch_size=2)
        export(folder, to=to, model=str(calling) if records in TOOLS else family[1])
        done = subprocess.run(
            [python, *command], capture_output=True, text=True, cwd=folder / f"coreset-0.5-{to}",
            env={**os.environ, "DISABLE_VERSION_CHECK": "1", "AXOLOTL_DO_NOT_TRACK": "1",
                 "WANDB_DISABLED": "true", "HF_HOME": str(folder / "hf"),
                 "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ""},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return folder, done

    return run


@pytest.fixture
def loaded(ran):
    """What a trainer makes of an export of records, and the examples that were exported."""

    def load(records, to):
        tool = ROOT / "tools" / f"load_by_{to.replace('-', '_')}.py"
        run, done = ran(records, to, tool)
        options = RecordOptions(**read_manifest(run)["data"]["reading"])
        found = open_source(run / "coreset-0.5.jsonl").records()
        # The last line: some libraries print as they are imported.
        facts = json.loads(done.stdout.strip().split("\n")[-1])
        return facts, [to_example(raw.record, options) for raw in found]

    return load


@pytest.mark.parametrize(
    ("quantize", "said"),
    [("none", ""), ("nf4", "to 4 bit with bitsandbytes"), ("llm-int8", "to 8 bit with bitsandb")],
)
def test_llama_factory_trains_by_the_yaml(ran, quantize, said):
    program = "from llamafactory.cli import main; main()"
    flags = ["train", "train.yaml", "bf16=false", "max_steps=2"]
    run, done = ran("pairs", "llama-factory", "-c", program, *flags, quantize=quantize)
    assert said in done.stdout + done.stderr
    assert list((run / "coreset-0.5-llama-factory").glob("tuned-*/adapter_model.safetensors"))


@pytest.mark.parametrize("quantize", ["none", "nf4", "llm-int8"])
def test_axolotl_trains_by_the_yaml(ran, quantize):
    kernels = [f"--lora-{name}-kernel=false" for name in ("mlp", "qkv", "o", "embedding")]  # CUDA's
    flags = ["--bf16=false", "--gradient-checkpointing=false", "--max-steps=2", *kernels]
    command = ["-m", "axolotl.cli.train", "train.yaml", *flags]
    run, _ = ran("pairs", "axolotl", *command, quantize=quantize)
    tuned = run / "coreset-0.5-axolotl" / "tuned"
    assert (tuned / "adapter_model.safetensors").is_file()
    found = json.loads((tuned / "config.json").read_text()).get("quantization_config", {})
    in_bits = [bool(found.get(f"load_in_{bits}bit")) for bits in (4, 8)]
    assert in_bits == [quantize == "nf4", quantize == "llm-int8"]


@pytest.mark.parametrize("records", [*RECORDS, "plain calls"])
def test_llama_factory_takes_every_row_with_all_its_turns(loaded, records):
    facts, examples = loaded(records, "llama-factory")
    assert facts["unknown"] == []
    assert facts["trained"] == len(examples) == 6
    for (messages, system, tools), example in zip(facts["rows"], examples, strict=True):
        turns = [(m["role"], m["content"]) for m in messages]
        assert (json.loads(tools) if tools else None) == example.given.get("tools")
        if example.messages:
            given = [_turn(m) for m in example.messages if m.role != "system"]
            first = example.messages[0]
            assert (turns, system or "") == (given, first.content if first.role == "system" else "")
        elif example.prompt:
            assert turns == [("user", example.prompt), ("assistant", example.response)]
        else:  # what is learnt from is the prompt, in its stage pt
            assert turns == [("user", example.response)]


def _turn(message):
    """Role and content as LLaMA-Factory has them: a call is the text of JSON."""
    if not (calls := message.more.get("tool_calls")):
        return {"tool": "observation"}.get(message.role, message.role), message.content
    return "function", json.dumps([call["function"] for call in calls])


@pytest.mark.parametrize("records", [*RECORDS, "plain calls", "thinking calls"])
def test_axolotl_learns_what_was_scored(loaded, family, calling, records):
    facts, examples = loaded(records, "axolotl")
    assert facts["unknown"] == []
    model = calling if records in TOOLS else family[1]
    tokeniser = Tokeniser(load_tokenizer(model), max_length=512)
    assert len(facts["rows"]) == len(examples) == 6
    for row, example in zip(facts["rows"], examples, strict=True):
        scored = tokeniser.encode(example)
        assert row["input_ids"] == scored.input_ids.tolist()
        assert row["labels"][1:] == scored.labels.tolist()[1:]
