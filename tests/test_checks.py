"""What is refused before any model is loaded: folders and adapters."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from staff.checks import check_inputs
from staff.errors import ConfigError, ModelError, RunError
from staff.runs.config import EvaluateConfig, FinetuneConfig, ScoreConfig, SelectConfig
from staff.runs.store import RunFolder


@pytest.fixture(autouse=True)
def models_pass(monkeypatch):
    monkeypatch.setattr("staff.models.folder.check_model_folder", lambda path, **_: None)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"prompt": "p", "response": "r"}) + "\n")
    return str(path)


def test_finetuning_never_writes_into_a_folder_that_holds_files(data, tmp_path):
    out = tmp_path / "out"
    config = FinetuneConfig(data=data, model="m", out=str(out))
    check_inputs(config)
    out.mkdir()
    check_inputs(config)  # empty
    (out / "adapter_config.json").touch()
    with pytest.raises(RunError, match=r"holds files.* --overwrite"):
        check_inputs(config)
    check_inputs(FinetuneConfig(data=data, model="m", out=str(out), overwrite=True))
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is a file"):
        check_inputs(FinetuneConfig(data=data, model="m", out=str(tmp_path / "file")))
    with pytest.raises(RunError, match="cannot be created"):
        check_inputs(FinetuneConfig(data=data, model="m", out=str(tmp_path / "file" / "x")))


def test_results_of_an_evaluation_are_replaced_only_when_told_to(data, tmp_path):
    (tmp_path / "notes.txt").touch()
    settings = {"data": data, "model": "m", "out": str(tmp_path)}
    check_inputs(EvaluateConfig(**settings))
    (tmp_path / "items.parquet").touch()
    with pytest.raises(RunError, match=r"results of another evaluation .* --overwrite"):
        check_inputs(EvaluateConfig(**settings))
    check_inputs(EvaluateConfig(**settings, overwrite=True))


def test_scores_of_another_configuration_are_refused(data, tmp_path):
    settings = {"data": data, "model": "m", "out": str(tmp_path / "s")}
    folder = RunFolder(tmp_path / "s")
    folder.start(ScoreConfig(**settings))
    folder.begin_writing(ScoreConfig(**settings))
    folder.manifest.write_text("{}")
    check_inputs(ScoreConfig(**settings, on_bad_row="skip"))
    with pytest.raises(RunError, match="model = 'm', now it is 'n'"):
        check_inputs(ScoreConfig(**{**settings, "model": "n"}))


@pytest.mark.parametrize("adapter", ["org/name", "~/nowhere", "./nowhere"])
def test_an_adapter_that_is_not_here_is_refused(data, adapter):
    with pytest.raises(ModelError, match=r"does not exist here.*downloaded first"):
        check_inputs(EvaluateConfig(data=data, model="m", adapter=adapter))


def test_an_adapter_in_the_home_folder_is_found(data, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tuned").mkdir()
    config = EvaluateConfig(data=data, model="m", adapter="~/tuned")
    with pytest.raises(ModelError, match=r"has no adapter_config\.json"):
        check_inputs(config)
    (tmp_path / "tuned" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    with pytest.raises(ModelError, match=r"has no adapter_model\.safetensors"):
        check_inputs(config)
    save_file({"a": np.zeros(1)}, tmp_path / "tuned" / "adapter_model.safetensors")
    check_inputs(config)


def test_scores_alone_cannot_be_selected_from(tmp_path):
    (tmp_path / "manifest.json").write_text(
        '{"format": 1, "command": "score", "config": {}, "staff_version": "0", "created": "now"}'
    )
    with pytest.raises(RunError, match="was made by staff score: --scores takes"):
        check_inputs(SelectConfig(scores=str(tmp_path), keep=0.1))


def test_sizes_that_the_file_cannot_give(data, tmp_path):
    settings = {"data": data, "method": "random", "out": str(tmp_path / "x")}
    with pytest.raises(ConfigError, match=r"--total 2: .*train.jsonl has only 1 row"):
        check_inputs(SelectConfig(**settings, total=2))
    with pytest.raises(ConfigError, match=r"keep 0.5 of 1 row is less than one row"):
        check_inputs(SelectConfig(**settings, keep=0.5))
    check_inputs(SelectConfig(**settings, keep=1, total=1))
