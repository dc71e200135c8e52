"""What an export is, whichever the trainer: every row, whole, in its order, and nothing else."""

import json
import re
import shutil
import subprocess
import sys
from contextlib import suppress

import datasets
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset, load_from_disk
from export_records import RECORDS, calls, chats, line, pairs, plain_calls

from staff import select_coreset
from staff.cli.export import told
from staff.cli.main import main
from staff.data.files import open_source
from staff.data.records import RecordOptions, to_example
from staff.errors import ConfigError, DataError, RunError, StaffError
from staff.exports.export import TRAINERS, export
from staff.runs.manifest import read_manifest

MODEL = "some/model"


def contents(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def rows_of(out):
    """The rows of an export, as its data file has them."""
    if (out / "state.json").is_file():
        return [raw.record for raw in open_source(out).records()]
    [table] = out.glob("*.parquet")
    return pq.read_table(table).to_pylist()


def examples(run):
    """What was scored, in the order of the coreset."""
    manifest = read_manifest(run)
    options = RecordOptions(**manifest["data"]["reading"])
    table = pq.read_table(run / "selection.parquet")
    chosen = set(table.filter(table["selected@0.5"])["row"].to_pylist())
    data = open_source(manifest["data"]["path"]).records()
    return [to_example(raw.record, options) for raw in data if raw.row in chosen]


def said(row, to):
    """(role, text) of all that a row says; a prompt without the line feed that parts it."""
    if "text" in row:
        return [("", row["text"])]
    if "messages" in row:
        return [(m["role"], m["content"]) for m in row["messages"]]
    response = row["completion" if to in ("trl", "hf-dataset") else "response"]
    if isinstance(response, list):
        return [(m["role"], m["content"]) for m in row["prompt"] + response]
    return [("user", row["prompt"].removesuffix("\n")), ("assistant", response)]


def meant(example):
    if example.messages:
        return [(m.role, m.content) for m in example.messages]
    if not example.prompt:
        return [("", example.response)]
    return [("user", example.prompt), ("assistant", example.response)]


@pytest.mark.parametrize("format", ["jsonl", "json", "csv", "parquet"])
@pytest.mark.parametrize("records", RECORDS)
def test_every_row_is_there_whole_and_in_order(make_run, records, format):
    make, settings = RECORDS[records]
    run = make_run(make(), format=format, **settings)
    expected = [meant(example) for example in examples(run)]
    for to in TRAINERS:
        if to == "hf-dataset" and format != "jsonl":
            continue  # the same rows, in a slower library
        facts = export(run, to=to, model=MODEL)
        out = run / f"coreset-0.5-{to}"
        assert facts["folder"] == str(out)
        assert [said(row, to) for row in rows_of(out)] == expected, to
        assert facts["rows"] == len(expected) == 6


def test_columns_of_ones_own_stay_with_their_rows(make_run):
    values = [
        ("whole", [1, -2, 2**60]),
        ("real", [1, 2.5, None]),
        ("flag", [True, None, False]),
        ("date", ["2020-01-01", "2021-02-02", None]),
        ("mixed", [1, "1", {"a": [None]}]),
        ("nested", [{"b": 1}, {"c": "x"}, None]),
        ("half", ["\ud800", "fine", None]),
        ("large", [2**60 + 1, 0.5, 10**30]),
    ]
    records = [
        {"prompt": "p", "response": f"r{i}", "gone": None, **{k: v[i % 3] for k, v in values}}
        for i in range(6)
    ]
    run = make_run(records, keep=1.0)
    export(run, to="trl", model=MODEL)
    found = rows_of(run / "coreset-1-trl")
    for row, record in zip(found, records, strict=True):
        assert "gone" not in row  # a column without a value has no type
        for name in ("whole", "real", "flag", "date"):
            assert row[name] == record[name]
            assert type(row[name]) in (type(record[name]), float)
        for name in ("mixed", "nested", "half", "large"):
            assert (row[name] is None) == (record[name] is None)
            assert row[name] is None or json.loads(row[name]) == record[name]


def test_answers_that_look_like_dates_stay_text(make_run):
    """A JSON reader would make timestamps of them, and LLaMA-Factory leave them all out."""
    run = make_run([{"prompt": f"day {i}", "response": f"2020-01-0{i}"} for i in range(1, 9)])
    export(run, to="llama-factory", model=MODEL)
    file = str(run / "coreset-0.5-llama-factory" / "coreset-0.5.parquet")
    loaded = load_dataset("parquet", data_files=file, split="train", cache_dir=str(run / "cache"))
    assert all(answer.startswith("2020-01-0") for answer in loaded["response"])


def test_columns_that_would_mean_something_to_the_trainer_are_left_out_and_told(make_run, capsys):
    extra = {
        "system": "s",
        "input": "i",
        "completion": "c",
        "topic": "t",
        "x\ud800": "",
        "\x00\n": "",
    }
    run = make_run([{**row, **extra} for row in pairs()], **RECORDS["pairs"][1])
    left_out = {"axolotl": "␀␊, input, system, x\ufffd", "trl": "␀␊, completion, x\ufffd"}
    for to, left in left_out.items():
        assert main(["export", str(run), "--to", to, "--model", MODEL]) == 0
        assert f"Columns left out because of their names: {left}\n" in capsys.readouterr().out
        row = rows_of(run / f"coreset-0.5-{to}")[0]
        assert (row["topic"], type(row["n"])) == ("t", int)
        assert not {"system", "input"} & set(row) or to == "trl"


def test_a_data_set_as_a_whole_is_what_trl_trains_on(make_run, family, tmp_path):
    """It fails of one of these columns, and of another takes the labels that are there."""
    from trl import SFTConfig, SFTTrainer

    extra = {"labels": 3, "images": [], "chosen": "c", "topic": 1}
    run = make_run([{**row, **extra} for row in RECORDS["messages"][0]()])
    facts = export(run, to="hf-dataset")
    assert facts["left_out"] == ["chosen", "images", "labels"]
    args = {"bf16": False, "use_cpu": True, "report_to": "none", "assistant_only_loss": True}
    trainer = SFTTrainer(
        model=family[0],
        args=SFTConfig(output_dir=str(tmp_path / "out"), **args),
        train_dataset=load_from_disk(facts["folder"]),
    )
    # TRL has not always made the labels this early.
    made = "labels" if "labels" in trainer.train_dataset.column_names else "assistant_masks"
    assert all(len(row[made]) == len(row["input_ids"]) for row in trainer.train_dataset)


def test_datasets_without_a_type_for_json(make_run, monkeypatch):
    """Before 4.7."""
    monkeypatch.delattr(datasets, "Json", raising=False)
    run = make_run(calls(), keep=1.0)
    with pytest.raises(ConfigError, match=r"cannot hold tool calls, .*: pip install -U 'datasets"):
        export(run, to="hf-dataset")


@pytest.mark.skipif(not hasattr(datasets, "Json"), reason="these datasets have no type for JSON")
def test_calls_of_tools_are_in_the_data_set_as_they_were(make_run, tmp_path):
    """None has the fields of another: rows of one type would give all of them to each."""
    run = make_run(calls(), keep=1.0)
    facts = export(run, to="hf-dataset")
    assert facts["left_out"] == []
    rows = load_from_disk(facts["folder"]).to_list()
    for row, record in zip(rows, calls(), strict=True):
        messages = [{**m, "content": m["content"] or ""} for m in record["messages"]]
        assert row["messages"] == messages
        assert (row["tools"] and json.loads(row["tools"])) == record["tools"]
        assert row["chat_template_kwargs"] == (record["chat_template_kwargs"] or {})
    again = select_coreset(facts["folder"], method="random", keep=1.0, out=tmp_path / "again")
    ids = [pq.read_table(r / "selection.parquet")["id"].to_pylist() for r in (run, again.folder)]
    assert ids[0] == ids[1]  # which are of the contents


def test_llama_factory_is_given_no_call_that_it_would_lose(make_run):
    """It leaves out words beside a call and knows no thoughts; and fails of a tool like the last."""
    words, bare = plain_calls(), plain_calls()
    words[3]["messages"][1]["content"] = "Let me see."
    del bare[4]["tools"][0]["function"]["parameters"]
    for name, rows, reason in (
        ("thoughts", calls(), "message 2 has reasoning_content, which LLaMA-Factory has no place"),
        ("words", words, "message 2 has words beside a call of tools, which LLaMA-Factory leaves"),
        ("bare", bare, "offers a tool without properties of its parameters"),
    ):
        with pytest.raises(DataError, match=reason):
            export(make_run(rows, name=name, keep=1.0), to="llama-factory", model=MODEL)


def test_arguments_of_a_template_that_a_trainer_does_not_take_are_told(make_run):
    run = make_run(calls(), keep=1.0)
    facts = export(run, to="axolotl", model=MODEL)
    assert (facts["rows"], facts["left_out"]) == (12, ["chat_template_kwargs"])
    assert (
        "chat_template_kwargs left out: axolotl does not hand it to the chat template, so the text "
        "may differ from what was scored\n"
    ) in told(facts)
    assert "because of its name" not in told(facts)
    assert "left out" not in told(export(run, to="trl", model=MODEL))


@pytest.mark.parametrize("to", TRAINERS)
def test_an_answer_of_weight_0_would_be_learnt(make_run, to):
    rows = chats()
    rows[3]["messages"][2]["weight"] = 0
    with pytest.raises(DataError, match="message 3 has weight 0, and the trainer would learn it"):
        export(make_run(rows, keep=1.0), to=to, model=MODEL)


def test_which_coreset(make_run, tmp_path):
    run = make_run(pairs(), keep=[0.5, 0.25], total=3, **RECORDS["pairs"][1])
    with pytest.raises(ConfigError, match=r"several coresets: .* one of 0\.5, 0\.25, n3"):
        export(run, to="trl", model=MODEL)
    for wrong in ("0.1", "n5", "much", "nan", "../0.5", ""):
        with pytest.raises(ConfigError, match=r"has no coreset .* one of 0\.5, 0\.25, n3"):
            export(run, to="trl", model=MODEL, keep=wrong)
    for keep, name, rows in (("0.250", "0.25", 3), ("n3", "n3", 3), ("5e-1", "0.5", 6)):
        out = tmp_path / "out" / name
        assert export(run, to="trl", model=MODEL, keep=keep, out=out)["rows"] == rows
        assert (out / f"coreset-{name}.parquet").is_file()


def test_the_model_is_the_runs_target_unless_another_is_named(make_run, family, tmp_path):
    small, target = family
    settings = {**RECORDS["pairs"][1], "small": small, "target": target}
    run = make_run(pairs(), tokens=80, **settings)  # the method random: only tokens are counted
    out = tmp_path / "out"
    facts = export(run, to="trl", keep="0.5", out=out)
    assert facts["model"] == yaml.safe_load((out / "train.yaml").read_text())["model_name_or_path"]
    assert facts["model"] == target
    assert facts["length"] == 320  # the longest row and a margin, not the model's whole context
    assert "; no row reaches the maximum length of 320 tokens\n" in told(facts)
    assert export(run, to="trl", keep="t80", out=tmp_path / "t", model=small)["model"] == small
    other = export(run, to="axolotl", keep="0.5", out=tmp_path / "o", model="owner/name@v2")
    assert other["model"] == "owner/name"
    settings = yaml.safe_load((tmp_path / "o" / "train.yaml").read_text())
    assert settings["revision_of_model"] == "v2"


@pytest.mark.parametrize("revision", ["12e4567", "3e10", "1234567", "yes", "v2"])
def test_a_commit_in_short_is_no_number_to_any_loader(run, tmp_path, revision):
    class Loader(yaml.SafeLoader):  # as OmegaConf, and so LLaMA-Factory, reads numbers
        pass

    numbers = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", numbers, list("-+0123456789."))
    export(run, to="llama-factory", model=f"owner/name@{revision}", out=tmp_path / "out")
    settings = yaml.load((tmp_path / "out" / "train.yaml").read_text(), Loader)
    assert settings["model_revision"] == revision


def test_whether_a_model_is_pickled_is_the_trainers_matter(run, family, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(family[1], folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "pytorch_model.bin").write_bytes(b"")
    # staff export has no --allow-pickle
    facts = export(run, to="trl", model=str(folder), out=tmp_path / "out")
    assert facts["model"] == str(folder)


def test_a_run_without_a_target_asks_for_a_model(run):
    with pytest.raises(ConfigError, match="say which model to tune, --model MODEL"):
        export(run, to="axolotl")
    assert export(run, to="hf-dataset")["model"] is None  # names none


def test_a_selection_from_stored_scores_knows_as_much(make_run, tmp_path):
    run = make_run(pairs(), max_length=77, id_column="n", **RECORDS["pairs"][1])
    again = tmp_path / "again"
    select_coreset(scores=run, method="random", keep=0.25, out=again)
    facts = export(again, to="trl", model=MODEL)
    assert (facts["rows"], facts["length"]) == (3, 77)
    assert "; longer rows are truncated to 77 tokens\n" in told(facts)  # nobody counted them


@pytest.mark.parametrize("change", ["a byte", "a line"])
def test_a_coreset_that_was_changed_is_refused(run, change):
    file = run / "coreset-0.5.jsonl"
    text = file.read_text()
    file.write_text(text.replace("It", "at", 1) if change == "a byte" else text + line(pairs()[0]))
    before = contents(run)
    with pytest.raises(RunError, match=r"coreset-0\.5\.jsonl is not the file that manifest\.json"):
        export(run, to="trl", model=MODEL)
    assert contents(run) == before


def test_a_coreset_that_changes_while_it_is_read_is_no_export(run, monkeypatch):
    from staff.exports import export as job

    begin, file = job._begin, run / "coreset-0.5.jsonl"

    def changing(*given):
        file.write_text(file.read_text().replace("It", "at", 1))
        return begin(*given)

    monkeypatch.setattr(job, "_begin", changing)
    with pytest.raises(RunError, match="is not the file that manifest"):
        export(run, to="trl", model=MODEL)
    assert not (run / "coreset-0.5-trl" / "export.json").exists()


def test_an_export_is_not_replaced_unless_told(run, capsys, traces):
    command = ["export", str(run), "--to", "trl", "--model", MODEL, "--quiet"]
    assert main(command) == 0
    out = run / "coreset-0.5-trl"
    (out / "tuned").mkdir()
    (out / "tuned" / "adapter.bin").write_text("hours of work")
    before = traces(out)
    assert main(command[:-1]) == 0  # the same again
    assert f"already finished: {out} was made from the same inputs" in capsys.readouterr().err
    assert traces(out) == before
    assert main([*command, "--dry-run"]) == 0  # nor is it said that files would be written
    assert f"  {out}/train.yaml\n" in capsys.readouterr().out
    (out / ".export.json").write_bytes((out / "export.json").read_bytes())  # killed at its very end
    assert main(command) == 0
    assert not (out / ".export.json").exists()
    assert main([part.replace(MODEL, "another/model") for part in command]) == 5
    assert "holds an export" in capsys.readouterr().err
    (out / "train.yaml").write_text("edited: true\n")
    before = contents(out)
    assert main(command) == 5
    assert "holds an export: choose another --out, or add --overwrite" in capsys.readouterr().err
    assert contents(out) == before
    assert main([*command, "--overwrite"]) == 0
    assert "edited" not in (out / "train.yaml").read_text()
    assert (out / "tuned" / "adapter.bin").read_text() == "hours of work"


def test_a_run_takes_no_notice_of_its_exports(run):
    export(run, to="trl", model=MODEL)
    made = contents(run / "coreset-0.5-trl")
    for overwrite in (False, True):
        data = run.with_suffix(".jsonl")
        settings = {"method": "random", "out": run, "overwrite": overwrite, **RECORDS["pairs"][1]}
        manifest = select_coreset(data, keep=0.25, **settings).manifest
        assert not any("trl" in name for name in manifest["files"])
        assert contents(run / "coreset-0.5-trl") == made
    assert not (run / "coreset-0.5.jsonl").exists()


def test_another_trainers_export_is_replaced_whole(run, tmp_path):
    out = tmp_path / "out"
    export(run, to="hf-dataset", out=out)
    export(run, to="axolotl", model=MODEL, out=out, overwrite=True)
    assert sorted(p.name for p in out.iterdir()) == [
        "coreset-0.5.parquet",
        "export.json",
        "train.yaml",
    ]


def test_a_folder_of_other_files_is_refused(run, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "train.py").write_text("precious")
    with pytest.raises(RunError, match="holds files but no export of staff"):
        export(run, to="trl", model=MODEL, out=out, overwrite=True)
    for place in (run, run / "coreset-0.5.jsonl"):
        with pytest.raises(RunError, match=r"no export of staff|is a file"):
            export(run, to="trl", model=MODEL, out=place, overwrite=True)
    assert contents(out) == {"train.py": b"precious"}


@pytest.mark.parametrize("first", [True, False])
def test_a_killed_export_is_finished_by_the_same_command(run, tmp_path, monkeypatch, first):
    from staff.exports import export as job

    out, whole = tmp_path / "out", tmp_path / "whole"
    export(run, to="trl", model=MODEL, out=whole)
    if not first:
        export(run, to="trl", model=MODEL, out=out)
    write = job.write_atomic

    def killed(path, text):
        if path.name == "train.yaml":
            raise KeyboardInterrupt
        write(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(job, "write_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            export(run, to="trl", model=MODEL, out=out, overwrite=True)
    assert not (out / "export.json").exists()
    again = tmp_path / "again"
    shutil.copytree(out, again)
    export(run, to="trl", model=MODEL, out=out)
    assert contents(out) == contents(whole)
    # Another one in its place leaves nothing of it.
    export(run, to="llama-factory", model=MODEL, out=again)
    assert "train.py" not in contents(again)
    assert set(json.loads((again / "export.json").read_text())["files"]) == set(contents(again)) - {
        "export.json"
    }


def test_a_changed_export_json_has_no_other_file_removed(run, tmp_path):
    out, mine = tmp_path / "out", tmp_path / "mine.txt"
    mine.write_text("precious")
    export(run, to="trl", model=MODEL, out=out)
    (out / "notes.txt").write_text("precious")
    found = json.loads((out / "export.json").read_text())
    found["files"] |= {"../mine.txt": "0", "notes.txt": "0", str(mine): "0"}
    (out / "export.json").write_text(json.dumps(found))
    export(run, to="axolotl", model=MODEL, out=out, overwrite=True)
    assert mine.read_text() == (out / "notes.txt").read_text() == "precious"
    assert not (out / "train.py").exists()
    (out / "export.json").write_text("[")
    with pytest.raises(RunError, match="is damaged"):
        export(run, to="trl", model=MODEL, out=out, overwrite=True)


def test_no_trainer_needs_torch_here(run, tmp_path):
    code = (
        "import sys; from staff.cli.main import main\n"
        f"made = [main(['export', {str(run)!r}, '--to', to, '--model', 'a/b', '--quiet'])\n"
        "        for to in ('trl', 'llama-factory', 'axolotl')]\n"
        "sys.exit(any(made) or 'torch' in sys.modules or 'datasets' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_dry_run_writes_nothing(run, capsys):
    before = contents(run)
    assert main(["export", str(run), "--to", "trl", "--model", MODEL, "--dry-run"]) == 0
    assert "Nothing was written. It would write 6 rows of coreset 0.5" in capsys.readouterr().out
    assert contents(run) == before


@pytest.mark.parametrize("to", TRAINERS)
def test_the_same_run_gives_the_same_bytes(run, tmp_path, to):
    for name in ("a", "b"):
        export(run, to=to, model=MODEL, out=tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    listed = json.loads((tmp_path / "a" / "export.json").read_text())["files"]
    assert sorted([*listed, "export.json"]) == sorted(contents(tmp_path / "a"))


def test_rows_that_a_trainer_would_skip_stop_the_export_or_are_set_aside(make_run, capsys):
    user, answer = ({"role": role, "content": role} for role in ("user", "assistant"))
    rows = [[user, answer], [user, user, answer], [answer], [user, answer, user]]
    run = make_run([{"messages": messages} for messages in rows], keep=1.0)
    command = ["export", str(run), "--to", "llama-factory", "--model", MODEL]
    assert main(command) == 3
    told = capsys.readouterr().err
    assert "2 of 4 rows cannot be exported" in told
    assert "line 2 (row 1): message 2 is from user where LLaMA-Factory wants an answer" in told
    out = run / "coreset-1-llama-factory"
    assert not out.exists()
    assert main([*command, "--on-bad-row", "skip"]) == 0
    told = capsys.readouterr().out
    assert "2 rows left out: see rejected.jsonl" in told
    assert "coreset 1, 2 of 4 rows\n" in (out / "train.yaml").read_text()
    assert "1 row without the turns after its last answer" in told
    assert [len(row["messages"]) for row in rows_of(out)] == [2, 2]
    rejected = [json.loads(text) for text in (out / "rejected.jsonl").read_text().splitlines()]
    assert [(bad["row"], bad["record"]["messages"]) for bad in rejected] == [
        (1, rows[1]),
        (2, rows[2]),
    ]
    for to in ("trl", "axolotl"):  # they take them all
        assert export(run, to=to, model=MODEL)["rows"] == 4


def test_datasets_opens_what_is_made_for_it(run):
    export(run, to="hf-dataset")
    rows = load_from_disk(str(run / "coreset-0.5-hf-dataset"))
    assert rows.column_names == ["prompt", "completion", "n"]
    assert len(rows) == 6


def test_no_row_left_is_an_error(make_run):
    answer = {"role": "assistant", "content": "a"}
    run = make_run([{"messages": [answer]}] * 4)
    with pytest.raises(DataError, match="2 of 2 rows cannot be exported"):
        export(run, to="llama-factory", model=MODEL, on_bad_row="skip")


HOSTILE = [
    'it\'s "quoted"',
    "a b\tc",
    "two\nlines: [x]\n- y",
    "{{x}} {x} %s ${HOME} `id` $(id)",
    "# comment: &a *b !!python.object:os.system",
    "é漢\u2028字",
    "\\n\\",
    "s3::a:b~*?",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_only_values_in_snippets(make_run, tmp_path, name, capsys):
    """Of the run's folder, the model and the data; text in the data names no file."""
    records = [{"prompt": name, "response": "../../x", "id": f"../{i}{name}"} for i in range(4)]
    run = make_run(records, id_column="id").rename(tmp_path / name)
    model = tmp_path / f"model {name}"
    shutil.copytree(tmp_path / name, model)  # some folder
    (model / "config.json").write_text('{"model_type": "llama"}')
    (model / "tokenizer.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"")
    for to in TRAINERS:
        out = run / f"coreset-0.5-{to}"
        assert main(["export", str(run), "--to", to, "--model", str(model)]) == 0
        printed = capsys.readouterr().out
        assert not set(printed) & {"\u2028", "\t", "\x1b"}
        assert len(rows_of(out)) == 2
        for file in out.glob("train.yaml"):
            settings = yaml.safe_load(file.read_text(encoding="ascii"))
            key = "base_model" if to == "axolotl" else "model_name_or_path"
            assert settings[key] == str(model)
            assert "output_dir" in settings
        for file in out.glob("*.json"):
            json.loads(file.read_text())
        allowed = {"export.json", "train.yaml", "train.py", "dataset_info.json", "state.json"}
        others = {p.name for p in out.iterdir()} - allowed
        assert others in ({"coreset-0.5.parquet"}, {"data-00000-of-00001.arrow"})
    script = (run / "coreset-0.5-trl" / "train.py").read_text()
    assert name not in script


def test_a_link_in_the_run_that_leads_out_is_not_followed(run, tmp_path, capsys):
    outside = tmp_path / "outside"
    outside.mkdir()
    (run / "coreset-0.5-trl").symlink_to(outside)
    assert main(["export", str(run), "--to", "trl", "--model", MODEL]) == 5
    assert "is a link to a place outside" in capsys.readouterr().err
    assert not any(outside.iterdir())
    (run / "coreset-0.5-trl").unlink()
    export(run, to="trl", model=MODEL)
    (run / "coreset-0.5-trl" / "train.yaml").unlink()
    (run / "coreset-0.5-trl" / "train.yaml").symlink_to(tmp_path / "run.jsonl")
    assert main(["export", str(run), "--to", "trl", "--model", MODEL, "--overwrite"]) == 5
    capsys.readouterr()
    # In a folder of the user's own a link in a file's place gives way to the file.
    out, mine = tmp_path / "own", tmp_path / "mine"
    mine.write_text("precious")
    (run / "coreset-0.5-trl" / "train.yaml").unlink()
    export(run, to="trl", model=MODEL, out=out)
    (out / "train.yaml").unlink()
    (out / "train.yaml").symlink_to(mine)
    export(run, to="trl", model=MODEL, out=out, overwrite=True)
    assert mine.read_text() == "precious"
    assert not (out / "train.yaml").is_symlink()


ODD = [None, True, -1, 1e308, "", "../x", "{a", "\ud800", "\x00", [], {}, "sharegpt"]


def test_nothing_but_words_come_of_a_changed_manifest(run, tmp_path):
    file = run / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["models"] = {"target": {"path": "a/b", "revision": "c", "hash": "d"}}
    places = [
        *[("coresets", 0, key) for key in manifest["coresets"][0]],
        *[("data", "reading", key) for key in ("format", "prompt_column", "prompt_template")],
        *[("models", "target", key) for key in ("path", "revision", "quantize")],
        *[("config", key) for key in ("target", "max_length", "quantize")],
        *[("config", key) for key in ("batch_size", "micro_batch_size")],
        *[(key,) for key in ("seed", "files", "command", "models", "coresets", "config")],
        ("data", "reading"),
    ]
    for place in places:
        for odd in ODD:
            changed = json.loads(json.dumps(manifest))
            holder = changed
            for key in place[:-1]:
                holder = holder[key]
            holder[place[-1]] = odd
            file.write_text(json.dumps(changed))
            with suppress(StaffError):
                export(run, to="trl", out=tmp_path / "out", overwrite=True)
                yaml.safe_load((tmp_path / "out" / "train.yaml").read_text())
    assert {p.name for p in tmp_path.iterdir()} == {"out", "run", "run.jsonl"}


IN_FULL = {
    "trl": {"dtype": "auto", "load_in_4bit": None, "load_in_8bit": None},
    "llama-factory": {"quantization_bit": None, "quantization_method": None},
    "axolotl": {"adapter": "lora", "load_in_4bit": None, "load_in_8bit": None},
}
IN_FOUR = {
    "trl": {
        "dtype": "bfloat16",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "use_bnb_nested_quant": True,
    },
    "llama-factory": {
        "quantization_bit": 4,
        "quantization_method": "bnb",
        "quantization_type": "nf4",
        "double_quantization": True,
    },
    "axolotl": {"adapter": "qlora", "load_in_4bit": True, "load_in_8bit": None},
}
IN_EIGHT = {
    "trl": {"dtype": "auto", "load_in_8bit": True, "load_in_4bit": None},
    "llama-factory": {"quantization_bit": 8, "quantization_method": "bnb"},
    "axolotl": {"adapter": "lora", "load_in_8bit": True, "load_in_4bit": None},
}


@pytest.fixture
def settings_of(run, change_manifest):
    """Exports for a trainer, after changes of the run's settings; its train.yaml."""

    def read(to, **config):
        change_manifest(run, **config)
        facts = export(run, to=to, model=MODEL, overwrite=True)
        settings = yaml.safe_load((run / f"coreset-0.5-{to}" / "train.yaml").read_text())
        return settings, facts

    return read


@pytest.mark.parametrize("to", IN_FULL)
@pytest.mark.parametrize(
    ("quantize", "bits", "wanted"),
    [
        ("none", None, IN_FULL),
        ("nf4", 4, IN_FOUR),
        ("int8", 8, IN_EIGHT),
        ("llm-int8", 8, IN_EIGHT),
    ],
)
def test_a_model_in_few_bits_is_tuned_in_few_bits(settings_of, to, quantize, bits, wanted):
    settings, facts = settings_of(to, quantize=quantize)
    assert facts["bits"] == bits
    assert {name: settings.get(name) for name in wanted[to]} == wanted[to]


def test_the_bits_are_those_of_the_target_and_not_of_a_selection_from_its_scores(
    run, change_manifest, capsys
):
    target = {"path": "a/b", "hash": "c", "revision": "d", "quantize": "nf4"}
    change_manifest(run, models={"target": target}, quantize="none")
    assert main(["export", str(run), "--to", "axolotl"]) == 0
    assert "Its weights in 4 bits, as in the run (QLoRA)" in capsys.readouterr().out
    assert export(run, to="hf-dataset")["bits"] is None


@pytest.mark.parametrize(
    ("batch", "micro", "rows", "steps"),
    [
        (8, None, 4, 2),  # as without settings
        (8, 2, 2, 4),
        (8, 3, 2, 4),  # 3 + 3 + 2 rows are no equal parts
        (6, 8, 6, 1),
        (7, None, 1, 7),
        (32, 16, 16, 2),
    ],
)
def test_a_step_has_as_many_rows_as_the_runs(settings_of, batch, micro, rows, steps):
    names = {"axolotl": "micro_batch_size"}
    for to in IN_FULL:
        settings, _ = settings_of(to, batch_size=batch, micro_batch_size=micro)
        at_once = settings[names.get(to, "per_device_train_batch_size")]
        assert (at_once, settings["gradient_accumulation_steps"]) == (rows, steps), to


def test_trl_takes_the_settings_of_few_bits(settings_of, run):
    from trl import ModelConfig, SFTConfig, TrlParser

    settings_of("trl", quantize="nf4", batch_size=8, micro_batch_size=2)
    kinds = [SFTConfig, ModelConfig]
    file = str(run / "coreset-0.5-trl" / "train.yaml")
    training, model = TrlParser(kinds).parse_args_and_config(
        ["--config", file, "--use_cpu", "true", "--bf16", "false"], fail_with_unknown_args=False
    )
    assert (model.load_in_4bit, model.load_in_8bit, model.dtype) == (True, False, "bfloat16")
    assert (model.bnb_4bit_quant_type, model.use_bnb_nested_quant) == ("nf4", True)
    assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == (2, 4)
