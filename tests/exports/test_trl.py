"""The TRL export is what TRL trains on: its script is run, and its tokens are those scored."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from types import SimpleNamespace

import datasets
import pytest
from export_records import RECORDS, TOOLS
from packaging.version import Version

from staff.data.files import open_source
from staff.data.records import RecordOptions, to_example
from staff.data.tokenise import Tokeniser
from staff.exports import train_trl
from staff.exports.export import export
from staff.models.load import load_tokenizer
from staff.runs.manifest import read_manifest

SHORT = ["--max_steps", "2", "--report_to", "none", "--disable_tqdm", "true"]


@pytest.fixture
def exported(make_run, family, calling):
    """Exports a run over records of a format; gives the folder and the examples in it."""

    def make(records):
        rows, settings = (RECORDS | TOOLS)[records]
        run = make_run(rows(), name=records.replace(" ", "-"), **settings)
        export(run, to="trl", model=str(calling) if records in TOOLS else family[1])
        options = RecordOptions(**read_manifest(run)["data"]["reading"])
        found = open_source(run / "coreset-0.5.jsonl").records()
        return run / "coreset-0.5-trl", [to_example(raw.record, options) for raw in found]

    return make


@pytest.fixture
def script(monkeypatch, tmp_path):
    """The script of an export as a module, in the working folder it makes its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def load(out):
        spec = importlib.util.spec_from_file_location("train", out / "train.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def test_the_script_trains_on_every_row_and_needs_no_staff(exported):
    out, examples = exported("pairs")
    code = "import runpy, sys; sys.modules['staff'] = None; runpy.run_path('train.py', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code, *SHORT, "--logging_steps", "1"],
        capture_output=True, text=True, cwd=out, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "FutureWarning" not in done.stderr
    assert (out / "tuned" / "adapter_model.safetensors").is_file()
    state = json.loads((out / "tuned" / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["global_step"] == 2
    assert all(step["loss"] > 0 for step in state["log_history"] if "loss" in step)
    assert len(examples) == 6


@pytest.mark.parametrize(
    ("model", "given"),
    [({}, None), ({"trust_remote_code": False}, None), ({"trust_remote_code": True}, True)],
)
def test_a_models_own_code_is_trusted_by_the_setting_of_earlier_trl_too(
    monkeypatch, script, tmp_path, model, given
):
    """TRL 0.28 has the setting in ModelConfig, later ones in SFTConfig, where the trainer looks."""
    settings = {"model_revision": "main", "dtype": "float32", "attn_implementation": None}
    model = SimpleNamespace(model_name_or_path="m", load_in_4bit=False, **settings, **model)
    training = SimpleNamespace(model_init_kwargs=None, packing=False)
    parsed = SimpleNamespace(parse_args_and_config=lambda arguments: (training, model, None))
    shutil.copy(train_trl.__file__, tmp_path / "train.py")
    module = script(tmp_path)
    monkeypatch.setattr(module, "TrlParser", lambda kinds: parsed)
    monkeypatch.setattr(module, "get_dataset", lambda mixture: {"train": []})
    for name in ("get_quantization_config", "get_peft_config"):
        monkeypatch.setattr(module, name, lambda model: None)
    made = SimpleNamespace(train_dataset=[])
    monkeypatch.setattr(module, "SFTTrainer", lambda **how: made)
    assert module.prepare([]) is made
    assert training.model_init_kwargs.get("trust_remote_code") is given


WITH_JSON = pytest.mark.skipif(
    not hasattr(datasets, "Json"), reason="these datasets have no type for JSON"
)


@pytest.mark.parametrize("records", [*RECORDS, pytest.param("calls", marks=WITH_JSON)])
def test_what_trl_learns_is_what_was_scored(exported, script, family, calling, records):
    out, examples = exported(records)
    trainer = script(out).prepare([*SHORT, "--bf16", "false"])
    model = calling if records in TOOLS else family[1]
    tokeniser = Tokeniser(load_tokenizer(model), max_length=512)
    kept = trainer.train_dataset.to_list()
    assert len(kept) == len(examples) == 6
    for row, example in zip(kept, examples, strict=True):
        scored = tokeniser.encode(example)
        assert row["input_ids"] == scored.input_ids.tolist()
        found = trainer.data_collator([row])["labels"][0].tolist()
        labels = scored.labels.tolist()
        if records in (
            "single messages",
            "messages pair",
        ):  # a completion ends with the line feed behind the turn
            assert (found.pop(), labels.pop()) == (row["input_ids"][-1], -100)
        assert found[1:] == labels[1:]  # of the first token nobody can be asked


@pytest.mark.skipif(
    Version(version("trl")) < Version("1.9"),
    reason="TRL before 1.9 keeps the rows it learns nothing of",
)
def test_rows_that_trl_would_drop_end_the_script(exported, script):
    out, _ = exported("single messages")
    with pytest.raises(SystemExit, match=r"no answer is left within max_length 5 in 6 of 6 rows"):
        script(out).prepare([*SHORT, "--max_length", "5"])
