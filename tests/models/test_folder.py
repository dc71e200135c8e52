import json
import shutil
import subprocess
import sys

import pytest

from staff.errors import ModelError
from staff.models.folder import (
    check_model_folder,
    local_folder,
    model_hash,
    revision_of,
)
from staff.models.trust import Trust
from staff.models.weights import weight_files


@pytest.fixture
def folder(tmp_path):
    """The look of a model folder: contents that only a loader would mind."""
    where = tmp_path / "model"
    where.mkdir()
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (where / "config.json").write_text(json.dumps(config))
    (where / "tokenizer.json").write_text("{}")
    (where / "model.safetensors").write_bytes(b"weights")
    return where


def test_a_good_folder_passes(folder):
    check_model_folder(str(folder))
    assert local_folder(str(folder)) == folder


@pytest.mark.parametrize("name", ["gpt2", "meta-llama/Llama-3.2-1B"])
def test_hub_ids_pass_unchecked(name):
    check_model_folder(name)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", "tests/nowhere"])
def test_a_missing_folder(name, monkeypatch, tmp_path):
    (tmp_path / "tests").mkdir()  # a sibling makes tests/nowhere a typo, not a Hub id
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="does not exist"):
        check_model_folder(name)


def test_a_hub_id_that_cannot_be_had():
    with pytest.raises(ModelError, match="neither a local folder nor"):
        local_folder("no-such-organisation/no-such-model")


def test_a_file(folder):
    with pytest.raises(ModelError, match="is a file"):
        check_model_folder(str(folder / "config.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer"),
        (lambda f: (f / "model.safetensors").unlink(), r"has no weights \(\*\.safetensors\)"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            "pickled weights only",
        ),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda f: (f / "config.json").write_text("[1]"), "names no model_type"),
    ],
)
def test_what_is_missing_is_named(folder, change, message):
    change(folder)
    with pytest.raises(ModelError, match=message):
        check_model_folder(str(folder))


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
        {
            "model_type": "t5",
            "architectures": ["T5ForConditionalGeneration"],
            "is_encoder_decoder": True,
        },
        {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]},
    ],
)
def test_not_a_causal_lm(folder, config):
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="not a causal language model"):
        check_model_folder(str(folder))


def test_an_adapter_given_as_a_model(folder):
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(ModelError, match="--adapter"):
        check_model_folder(str(folder))


def test_the_hash_follows_contents_not_places(folder, tmp_path):
    first = model_hash(str(folder))
    moved = folder.rename(tmp_path / "elsewhere")
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps({"_name_or_path": "x", **config}, indent=3))
    assert model_hash(str(moved)) == first
    (moved / "model.safetensors").write_bytes(b"weightz")
    assert model_hash(str(moved)) != first


def test_the_hash_covers_the_adapter(folder, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 8, "target_modules": ["b", "a"]}))
    (adapter / "adapter_model.safetensors").write_bytes(b"delta")
    with_adapter = model_hash(str(folder), str(adapter))
    assert with_adapter != model_hash(str(folder))
    (adapter / "adapter_config.json").write_text(
        json.dumps({"target_modules": ["a", "b"], "r": 8, "base_model_name_or_path": "/x"})
    )
    assert model_hash(str(folder), str(adapter)) == with_adapter


def test_torch_is_not_imported():
    code = "import sys, staff.models.folder, staff.models.load; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the Hub as `huggingface_hub` lays it out; gives a function that adds a model."""
    from huggingface_hub import constants

    from staff.models import folder as module

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    module._snapshot.cache_clear()

    def add(source, commit="1234567890123456789012345678901234567890"):
        place = tmp_path / "hub" / "models--acme--small"
        shutil.copytree(source, place / "snapshots" / commit)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(commit)
        return place / "snapshots" / commit

    yield add
    module._snapshot.cache_clear()


def test_a_hub_model_is_its_snapshot(hub, folder):
    snapshot = hub(folder)
    assert local_folder("acme/small") == snapshot
    assert local_folder(f"acme/small@{snapshot.name}") == snapshot
    assert revision_of("acme/small") == snapshot.name
    assert revision_of(str(folder)) is None
    assert model_hash("acme/small") == model_hash(str(folder))


def test_a_hub_model_that_cannot_be_had(hub, folder):
    hub(folder)
    with pytest.raises(ModelError, match="neither a local folder nor a model"):
        local_folder("acme/smell")


def test_a_second_copy_of_the_weights_does_not_count(folder):
    first = model_hash(str(folder))
    (folder / "consolidated.safetensors").write_bytes(b"the same once more")
    assert model_hash(str(folder)) == first
    assert weight_files(folder) == [folder / "model.safetensors"]


def test_an_index_names_the_weights(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}})
    )
    (folder / "consolidated.safetensors").write_bytes(b"x")
    assert [f.name for f in weight_files(folder)] == ["model-00001-of-00001.safetensors"]
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be read"):
        weight_files(folder)


@pytest.mark.parametrize("trust", [Trust(), Trust(pickle=True), Trust(code=True)])
def test_of_a_hub_model_only_what_is_trusted_is_fetched(hub, folder, monkeypatch, trust):
    import huggingface_hub

    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    snapshot, asked = hub(folder), []

    def download(repository, *, revision, allow_patterns, ignore_patterns, local_files_only):
        asked.append((revision, allow_patterns))
        return str(snapshot)

    weights = folder / "pytorch_model.bin"
    (snapshot / weights.name).unlink()  # comes with the second download, if there is one
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelError, match="has no weights"):
        local_folder("acme/small", trust=trust)
    patterns = [pattern for _, wanted in asked for pattern in wanted]
    assert ("*.py" in patterns) == trust.code
    assert any(pattern.endswith(".bin") for pattern in patterns) == trust.pickle
    # The second download is of the same commit.
    assert [revision for revision, _ in asked] == [None, snapshot.name][: 1 + trust.pickle]
