from pathlib import Path
from types import SimpleNamespace

import pytest

from staff.data.files import open_source
from staff.errors import ConfigError, ModelError
from staff.runs.config import ScoreConfig, SelectConfig
from staff.stages.facts import count_parameters
from staff.stages.options import device_used
from staff.stages.reading import reading_key
from staff.stages.scoring import _on_ray


def test_weights_cut_short_are_told_from_an_internal_error(tiny, tmp_path):
    tiny("llama").save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    file = tmp_path / "model.safetensors"
    assert count_parameters(str(tmp_path)) > 0
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read .*fetch the model"):
        count_parameters(str(tmp_path))


def test_the_same_bytes_are_other_rows_as_another_kind_of_file(tmp_path):
    keys = set()
    for name in ("a.csv", "a.tsv"):
        (tmp_path / name).write_text("text\tx,y\na\tb,c\n")
        source = open_source(tmp_path / name)
        config = SelectConfig(data=source.name, method="random", keep=0.5, out="run")
        keys.add(reading_key(config, source, source.content_hash(), []))
    assert len(keys) == 2


def test_room_on_a_gpu_of_rays_workers_is_not_looked_for_here(family):
    settings = {"data": "x", "model": family[0], "out": "y", "device": "cpu"}
    settings |= {"device_map": "auto", "max_memory": "gpu99=1GB"}
    with pytest.raises(ConfigError, match="gpu99, which does not exist here"):
        device_used(ScoreConfig(**settings))
    assert device_used(ScoreConfig(**settings, executor="ray"))["type"] == "cpu"


def test_rays_workers_compute_on_the_gpu_that_ray_gives_them():
    """There it is the first, whatever number the one has that the small model is tuned on."""
    config = ScoreConfig(data="x", model="m", out="y", device="cuda:3", executor="ray")
    elsewhere = _on_ray(
        config, SimpleNamespace(path=Path("tokens"), content_hash="0"), model="m", adapter=None,
        quantize="none", features=False, start=None, made_from={"dtype": "bfloat16"}, rows=1,
    )  # fmt: skip
    [job] = elsewhere.args
    assert job.scorer.config.device == "cuda"
    assert elsewhere.keywords["device"] == "cuda:3"  # they do take GPUs
