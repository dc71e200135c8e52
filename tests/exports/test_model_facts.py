"""What an export takes of the model that is to be tuned: its template, layers, lengths and place."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from export_records import RECORDS, pairs

from staff.errors import ConfigError
from staff.exports.export import export
from staff.hashing import hash_file

LLAMA = "{{ '<|start_header_id|>' + m['role'] }}{{ m['content'] }}<|eot_id|>"
GEMMA = "<start_of_turn>{{ m['content'] }}<end_of_turn>"
CHATML = "{{ '<|im_start|>' + m['role'] }}{{ m['content'] + '<|im_end|>' }}"
DEEPSEEK = "{{ m['content'] }}{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
MISTRAL = "{{ '[INST] ' + m['content'] + '[/INST]' }}"
LLAMA_2 = "{{ '[INST] <<SYS>>' + m['content'] + ' [/INST]' }}"


def write_model(folder, *, kind="llama", template=None, added=(), length=4096, beside=False):
    """Makes a folder that is a model to all that does not load it."""
    folder.mkdir(parents=True)
    settings = {"model_type": kind, "max_position_embeddings": length}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "model.safetensors").write_bytes(b"")
    tokens = [{"content": token} for token in added]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": tokens}))
    if template is not None and not beside:
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    elif template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.fixture
def settings_for(make_run):
    """What an export of records for a trainer says, of a model by its folder or name."""
    runs = {}

    def read(to, model, records="pairs", **known):
        key = (records, *known.values())
        if key not in runs:
            make, settings = RECORDS[records]
            runs[key] = make_run(make(), name=f"run-{len(runs)}", **settings)
            counted(runs[key], **known)
        facts = export(runs[key], to=to, model=str(model), overwrite=True)
        settings = yaml.safe_load((runs[key] / f"coreset-0.5-{to}" / "train.yaml").read_text())
        return settings, facts

    return read


def counted(run, *, tokens=None, **config):
    """Has a run know its rows' tokens, and other settings, as one with a target does."""
    file = run / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["config"] |= config
    if tokens is not None:
        table = pq.read_table(run / "selection.parquet")
        lengths = pa.array([tokens] * len(table), pa.int64())
        table = table.drop_columns(["tokens"]).append_column("tokens", lengths)
        pq.write_table(table, run / "selection.parquet")
        manifest["files"]["selection.parquet"] = hash_file(run / "selection.parquet")
    file.write_text(json.dumps(manifest))


SEVERAL = [{"name": "tools", "template": ""}, {"name": "default", "template": LLAMA}]


@pytest.mark.parametrize("records", ["pairs", "messages"])
def test_llama_factory_is_told_the_template_that_it_would_read_wrongly(
    settings_for, tmp_path, records
):
    """It puts the header of Llama 3.1's before every turn, and dies of Gemma's and Mistral's.

    Of an answer it leaves the end of sequence where the template asks for a thought before it.
    """
    for number, (kind, template, beside, named) in enumerate(
        [
            ("llama", LLAMA, False, "llama3"),
            ("llama", LLAMA, True, "llama3"),
            ("llama", SEVERAL, False, "llama3"),
            ("gemma2", GEMMA, True, "gemma"),
            ("gemma3", GEMMA, True, "gemma3"),
            ("mistral", MISTRAL, False, "mistral"),
            ("llama", LLAMA_2, False, "llama2"),
            ("qwen2", DEEPSEEK, False, "deepseekr1"),
            ("qwen2", CHATML, False, None),  # read off the tokenizer
            ("llama", None, False, "default"),
        ]
    ):
        folder = tmp_path / f"model-{number}"
        model = write_model(folder, kind=kind, template=template, beside=beside)
        settings, _ = settings_for("llama-factory", model, records)
        assert settings.get("template") == named, (kind, template)


def test_llama_factory_reads_no_template_for_plain_text(settings_for, tmp_path):
    model = write_model(tmp_path / "model", template=GEMMA)
    assert settings_for("llama-factory", model, "text")[0]["template"] == "empty"


def test_llama_factory_goes_on_from_no_run_of_other_rows_or_another_model(make_run, tmp_path):
    run = make_run(pairs(), keep=[0.5, 0.25], **RECORDS["pairs"][1])
    out, folders = tmp_path / "out", []
    for keep, model in (("0.5", "a/b"), ("0.5", "a/b"), ("0.25", "a/b"), ("0.5", "a/c@v2")):
        export(run, to="llama-factory", keep=keep, model=model, out=out, overwrite=True)
        folders.append(yaml.safe_load((out / "train.yaml").read_text())["output_dir"])
    assert folders[0] == folders[1]
    assert len(set(folders)) == 3


def test_axolotl_learns_the_end_of_a_turn(settings_for, tmp_path):
    """Of itself only where that is the tokenizer's end of sequence."""
    for number, (template, added, ends) in enumerate(
        [
            (GEMMA, ["<start_of_turn>", "<end_of_turn>"], ["<end_of_turn>"]),
            (CHATML, ["<|im_end|>"], ["<|im_end|>"]),
            (CHATML, [], None),  # would be several tokens, which axolotl refuses
            ("{{ m['content'] + eos_token }}", ["<|im_end|>"], None),
        ]
    ):
        model = write_model(tmp_path / f"model-{number}", template=template, added=added)
        assert settings_for("axolotl", model, "messages")[0].get("eot_tokens") == ends
        assert "eot_tokens" not in settings_for("axolotl", model, "pairs")[0]


def test_layers_that_a_trainer_would_not_find_are_named(settings_for, tmp_path):
    for kind, factory, axolotl in [
        ("llama", "all", None),
        ("gpt2", "c_attn,c_proj,c_fc", ["c_attn", "c_proj", "c_fc"]),
    ]:
        model = write_model(tmp_path / kind, kind=kind)
        assert settings_for("llama-factory", model)[0]["lora_target"] == factory
        settings, _ = settings_for("axolotl", model)
        assert settings.get("lora_target_modules") == axolotl
        assert settings.get("lora_target_linear") == (None if axolotl else True)


def test_named_layers_are_those_that_peft_takes_for_all_linear_ones(tiny):
    from peft import LoraConfig, get_peft_model

    from staff.exports.snippets import LAYERS

    def tuned(layers):
        config = LoraConfig(target_modules=layers, task_type="CAUSAL_LM", fan_in_fan_out=True)
        model = get_peft_model(tiny("gpt2"), config)
        return sorted(name for name, _ in model.named_parameters() if "lora_" in name)

    assert tuned(list(LAYERS["gpt2"])) == tuned("all-linear")


def test_a_hub_model_that_was_downloaded_is_looked_at(settings_for, tmp_path, monkeypatch):
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    commit = "c" * 40
    kept = cache / "models--some--model"
    write_model(kept / "snapshots" / commit, template=GEMMA, length=100)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(commit)
    for name in ("some/model", f"some/model@{commit}"):
        settings, facts = settings_for("llama-factory", name)
        assert (settings["model_name_or_path"], settings["template"]) == ("some/model", "gemma")
        assert facts["length"] == 100  # its context
    assert settings_for("llama-factory", "some/other")[0]["template"] == "default"
    for name in ("tokenizer.json", "tokenizer_config.json"):  # as staff plan leaves the cache
        (kept / "snapshots" / commit / name).unlink()
    settings, facts = settings_for("llama-factory", "some/model", "messages")
    assert "template" not in settings  # not known: its own may well be the right one
    assert facts["length"] == 100


def test_rows_are_not_cut_by_another_tokenizers_count(make_run, change_manifest, tmp_path):
    """A run counts by its target; another model's tokenizer may make more tokens of a row."""
    run = make_run(pairs(), **RECORDS["pairs"][1])
    counted(run, tokens=600)
    change_manifest(run, models={"target": {"path": "a/b", "revision": "c", "hash": "d"}})
    lengths = {
        model: export(run, to="trl", model=model, out=tmp_path / str(i))["length"]
        for i, model in enumerate((None, "a/b", "other/model"))
    }
    assert lengths[None] == lengths["a/b"] == 896  # with a margin
    assert lengths["other/model"] >= 4 * 600
    small = write_model(tmp_path / "small", length=512)
    facts = export(run, to="trl", model=str(small), out=tmp_path / "s")
    assert (facts["length"], facts["all_fit"]) == (512, False)


def test_a_row_at_the_runs_limit_has_room_for_llama_factorys_template(settings_for, tmp_path):
    for to, least in (("trl", 512), ("axolotl", 512), ("llama-factory", 512 + 256)):
        assert settings_for(to, "a/b", tokens=512, max_length=512)[1]["length"] == least
    small = write_model(tmp_path / "small", length=600)
    facts = settings_for("llama-factory", small, tokens=512, max_length=512)[1]
    assert facts["length"] == 600  # the model takes no more


def test_a_targets_folder_that_is_not_here_is_no_hub_model(
    make_run, change_manifest, tmp_path, monkeypatch
):
    """A trainer would fetch whatever goes by the name models/target on the Hub."""
    run = make_run(pairs(), **RECORDS["pairs"][1])
    change_manifest(run, models={"target": {"path": "models/target", "hash": "d"}})
    with pytest.raises(ConfigError, match="folder models/target, which is not here: run staff"):
        export(run, to="axolotl")
    write_model(tmp_path / "models" / "target")
    monkeypatch.chdir(tmp_path)
    assert export(run, to="axolotl")["model"] == str(tmp_path / "models" / "target")
    moved = str(tmp_path / "gone")  # may be there where the export is taken to
    change_manifest(run, models={"target": {"path": moved, "hash": "d"}})
    assert export(run, to="axolotl", out=tmp_path / "out")["model"] == moved


@pytest.mark.parametrize("text", ["[", "[]", '{"added_tokens": 3, "chat_template": [1]}'])
def test_a_models_odd_files_say_nothing(settings_for, tmp_path, text):
    model = write_model(tmp_path / "model", template=CHATML, beside=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).write_text(text)
    assert "eot_tokens" not in settings_for("axolotl", model, "messages")[0]
    (model / "chat_template.jinja").unlink()
    assert settings_for("llama-factory", model, "messages")[0]["template"] == "default"
