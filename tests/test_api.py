"""The job from Python: rows in memory in, rows in memory out."""

import copy
import json
import tempfile
from dataclasses import replace

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, IterableDataset
from datasets.utils import are_progress_bars_disabled
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from staff import (
    Comparison,
    ConfigError,
    DataError,
    ModelError,
    Run,
    RunError,
    StaffError,
    compare_coresets,
    select_coreset,
)
from staff.data.writers import umask
from staff.runs.manifest import read_manifest
from staff.runs.selection_file import read_selection

N = 20


def rows(**more):
    records = [{"prompt": f"p{i}", "response": f"r{i}", "n": i, **more} for i in range(N)]
    return Dataset.from_list(records)


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_a_dataset_in_a_dataset_out(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data = rows()
    chosen = select_coreset(data, method="random", keep=0.25)
    assert isinstance(chosen, Dataset)
    assert chosen.features == data.features
    assert len(chosen) == 5
    assert chosen["n"] == sorted(chosen["n"])  # in their order
    assert [data[n] for n in chosen["n"]] == chosen.to_list()
    assert files(tmp_path) == []  # nothing is left
    assert not are_progress_bars_disabled()


def test_several_sizes_come_by_name_and_the_run_stays(tmp_path):
    data, out = rows(), tmp_path / "runs" / "x"
    found = select_coreset(data, method="random", keep=[0.5, 0.25], total=3, out=out)
    assert isinstance(found, DatasetDict)
    assert {name: len(part) for name, part in found.items()} == {"0.5": 10, "0.25": 5, "n3": 3}
    table = read_selection(out / "selection.parquet")
    for name, part in found.items():
        assert part["n"] == table["row"][table[f"selected@{name}"].astype(bool)].tolist()
    assert read_manifest(out)["data"]["path"] == str(tmp_path / "runs" / "x-data.parquet")
    again = select_coreset(data, method="random", keep=0.5, out=out)  # the same rows: it goes on
    assert again.to_list() == found["0.5"].to_list()
    with pytest.raises(RunError, match="contains other rows than the data set"):
        select_coreset(rows(new=1), method="random", keep=0.5, out=out)


def test_the_same_rows_are_the_same_however_they_lie_in_memory(tmp_path):
    """A view is written in other pages than its copy, as after a restart of the notebook."""
    n = range(5000)  # more than a page and its dictionary hold
    texts = {"prompt": [f"p{i}" * 20 for i in n], "response": [f"r{i}" * 50 for i in n]}
    copied = Dataset.from_dict({**texts, "n": list(n), "nan": [float("nan")] * len(n)})
    view = copied.filter(lambda row: row["n"] >= 0)
    for name, data in (("copied", copied), ("view", view)):
        data.to_parquet(tmp_path / name)
    assert (tmp_path / "copied").read_bytes() != (tmp_path / "view").read_bytes()
    first = select_coreset(view, method="random", keep=0.5, out=tmp_path / "run")
    before = (tmp_path / "run" / "manifest.json").read_bytes()
    again = select_coreset(copied, method="random", keep=0.5, out=tmp_path / "run")
    assert again["n"][:] == first["n"][:]
    assert (tmp_path / "run" / "manifest.json").read_bytes() == before
    with pytest.raises(RunError, match="contains other rows than the data set"):
        select_coreset(view.shuffle(seed=0), method="random", keep=0.5, out=tmp_path / "run")


def test_rows_that_were_refused_are_not_in_the_way_of_mended_ones(tmp_path):
    data = Dataset.from_list([{"prompt": "p", "response": text} for text in ("a", " ", "b")])
    out = tmp_path / "runs" / "x"
    with pytest.raises(DataError, match="1 of 3 rows cannot be used"):
        select_coreset(data, method="random", keep=1.0, out=out)
    assert files(tmp_path) == []
    mended = data.select([0, 2])
    assert len(select_coreset(mended, method="random", keep=1.0, out=out)) == 2
    with pytest.raises(StaffError, match="has only 2"):
        select_coreset(mended, method="random", total=9, out=out)
    assert (tmp_path / "runs" / "x-data.parquet").is_file()  # of the run that is there


def test_a_home_folder_is_written_out(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    select_coreset(rows(), method="random", keep=0.5, out="~/runs/x")
    assert files(tmp_path / "here") == []
    data = tmp_path / "home" / "runs" / "x-data.parquet"
    assert data.is_file()
    assert read_manifest(data.with_name("x"))["data"]["path"] == str(data)


def test_a_view_of_a_dataset_is_chosen_from_by_its_own_positions():
    data = rows().shuffle(seed=1).filter(lambda row: row["n"] % 2 == 0).with_format("numpy")
    chosen = select_coreset(data, method="random", keep=0.5)
    assert len(chosen) == 5
    assert chosen.format["type"] == "numpy"
    positions = [data["n"][:].tolist().index(n) for n in chosen["n"][:].tolist()]
    assert positions == sorted(positions)


def test_conversations_and_rejected_rows(tmp_path):
    answers = ["a", " ", "b", "c"] * 2
    data = Dataset.from_list(
        [
            {"messages": [{"role": "assistant", "content": text}], "n": i}
            for i, text in enumerate(answers)
        ]
    )
    with pytest.raises(DataError, match=r"^data: 2 of 8 rows cannot be used") as told:
        select_coreset(data, method="random", keep=0.5)
    assert "\n  data, row 1: " in str(told.value)  # its file is gone by now
    assert 'leave them out with on_bad_row="skip"' in str(told.value)
    chosen = select_coreset(data, method="random", keep=1.0, on_bad_row="skip")
    assert chosen["n"][:] == [0, 2, 3, 4, 6, 7]


def test_a_file_gives_a_run_as_ever(tmp_path):
    file = tmp_path / "a.parquet"
    rows().to_parquet(file)
    run = select_coreset(file, method="random", keep=0.5, out=tmp_path / "run")
    assert list(run.coresets) == ["0.5"]
    folder = str(tmp_path / "run")
    assert repr(run) == (
        f"Run(folder={folder!r}, method='random', usable_rows=20, coresets={{'0.5': 10}})"
    )
    again = select_coreset(scores=run, method="random", keep=0.25, out=tmp_path / "again")
    assert again.manifest["config"]["scores"] == folder
    assert select_coreset(rows(), method="random", keep=0.5).to_list() == [
        row
        for row, taken in zip(rows().to_list(), run.table()["selected@0.5"], strict=True)
        if taken
    ]


@pytest.mark.skipif(not hasattr(datasets, "Json"), reason="these datasets have no type for JSON")
def test_messages_of_unlike_fields():
    """`datasets` keeps each as JSON."""
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    talks = [
        [
            {"role": "user", "content": f"a{i}"},
            {"role": "assistant", "tool_calls": [call] * (i + 1)},
        ]
        for i in range(4)
    ]
    data = Dataset.from_list([{"messages": talk} for talk in talks], on_mixed_types="use_json")
    assert "Json" in str(data.features["messages"])
    chosen = select_coreset(data, method="random", keep=0.5)
    assert len(chosen) == 2
    assert all(talk in talks for talk in chosen["messages"])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (DatasetDict({"train": rows(), "test": rows()}), r"splits 'train', 'test': give one of"),
        (IterableDataset.from_generator(lambda: iter([{"text": "a"}])), "is a stream"),
        ([{"text": "a"}], r"data is a list: give a path, a Hub id, or a datasets\.Dataset"),
        (pd.DataFrame({"text": ["a"]}), r"data is a DataFrame: .*Dataset\.from_pandas"),
        (np.zeros(3), "data is a ndarray"),
        (Dataset.from_list([]), "the data set has no rows"),
    ],
)
def test_other_rows_in_memory_are_refused_in_words(data, words, tmp_path):
    with pytest.raises(DataError, match=words):
        select_coreset(data, method="random", keep=0.5, out=tmp_path / "run")
    assert files(tmp_path) == []


def test_settings_are_checked_before_a_row_is_written(tmp_path):
    with pytest.raises(ConfigError, match="nothing to choose"):
        select_coreset(rows(), method="random", out=tmp_path / "run")
    assert files(tmp_path) == []
    (tmp_path / "taken").write_text("")
    with pytest.raises(RunError, match="taken is a file: out takes a folder"):
        select_coreset(rows(), method="random", keep=0.5, out=tmp_path / "taken")
    assert files(tmp_path) == ["taken"]


def test_the_working_folder_can_be_the_runs(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    select_coreset(rows(), method="random", keep=0.5, out=".")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sub", "sub-data.parquet"]
    with pytest.raises(RunError, match="contains files but no staff run"):
        select_coreset(rows(), method="random", keep=0.5, out="/")


@pytest.fixture(scope="module")
def loaded(family):
    """The embedded models in memory, each with its tokenizer."""
    return [
        (AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path))
        for path in family
    ]


def test_models_in_memory_choose_what_those_on_disk_do(loaded, family, tmp_path, capfd):
    data, out = rows(), tmp_path / "run"
    settings = {"keep": 0.5, "skip_finetune": True, "regions": 2, "verify_per_region": 2}
    settings |= {"dtype": "float32"}
    with pytest.warns(UserWarning, match="^the target has a chat template") as said:
        chosen = select_coreset(data, small=loaded[0], target=loaded[1], out=out, **settings)
    assert said[0].filename == __file__  # the line that called is shown, not one of the package
    assert "Writing" not in capfd.readouterr().err  # as transformers does of every model it saves
    small, target = family
    expected = select_coreset(data, small=small, target=target, **settings)
    assert chosen.to_list() == expected.to_list()
    scores = read_selection(out / "selection.parquet")["score_small"]
    assert np.isfinite(scores).all()
    assert read_manifest(out)["models"]["target"]["path"] == str(tmp_path / "run-target")
    before = (out / "manifest.json").read_bytes()
    again = select_coreset(data, small=loaded[0], target=loaded[1], out=out, **settings)
    assert again.to_list() == chosen.to_list()
    assert (out / "manifest.json").read_bytes() == before
    (out / "report.html").unlink()
    select_coreset(data, small=loaded[0], target=loaded[1], out=out, **settings)
    stages = read_manifest(out)["stages"]
    assert [s["reused"] for s in stages if s["name"] == "score small"] == [True]
    with pytest.raises(RunError, match="run-small contains another model"):
        select_coreset(data, small=loaded[1], target=loaded[1], out=out, **settings)
    small, tokenizer = loaded[0][0], copy.deepcopy(loaded[0][1])
    tokenizer("a", padding="max_length", max_length=9)  # a state, and no other tokenizer
    select_coreset(data, small=(small, tokenizer), target=loaded[1], out=out, **settings)
    tokenizer.chat_template = "{{ messages }}"
    with pytest.raises(RunError, match="run-small contains this model with another tokenizer or"):
        select_coreset(data, small=(small, tokenizer), target=loaded[1], out=out, **settings)
    assert not list(tmp_path.glob(".*"))


def test_models_in_memory_beside_data_on_disk(loaded, tmp_path):
    file = tmp_path / "a.parquet"
    rows().to_parquet(file)
    with pytest.raises(ConfigError, match="out is missing"):
        select_coreset(file, method="grand", small=loaded[0], keep=0.5)
    assert files(tmp_path) == ["a.parquet"]
    run = select_coreset(
        file, method="grand", small=loaded[0], keep=0.5, skip_finetune=True, out=tmp_path / "run"
    )
    assert run.manifest["config"]["small"] == str(tmp_path / "run-small")
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "run-small").iterdir()}
    assert modes == {0o666 & ~umask()}  # for others, too, who go on with the run


def test_models_that_cannot_be_kept_are_refused_in_words(loaded, tmp_path):
    model, tokenizer = loaded[0]
    for given, words in (
        (model, r"small is a LlamaForCausalLM: .* \(model, tokenizer\)"),
        ((model,), "small is a tuple"),
        ((tokenizer, "x"), "small is a tuple"),
    ):
        with pytest.raises(ModelError, match=words):
            select_coreset(rows(), small=given, method="grand", keep=0.5, out=tmp_path / "run")
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(target_modules=["v_proj"]))
    with pytest.raises(ModelError, match="merge it"):
        select_coreset(rows(), small=(adapted, tokenizer), method="grand", keep=0.5)
    odd = copy.deepcopy(model)
    odd.generation_config.update(temperature=0.5, do_sample=False)  # loads, with a warning
    empty = copy.deepcopy(model).to("meta")
    for given, words in ((odd, "LlamaForCausalLM in memory cannot .*: `temper"), (empty, "meta")):
        with pytest.raises(ModelError, match=words):
            select_coreset(rows(), small=(given, tokenizer), method="grand", keep=0.5)
    assert files(tmp_path) == []


def test_a_finished_run_is_read_again(tmp_path):
    file = tmp_path / "a.parquet"
    rows().to_parquet(file)
    run = select_coreset(file, method="random", keep=0.5, out=tmp_path / "run")
    again = Run.read(str(tmp_path / "run"))
    assert again == replace(run, manifest=again.manifest)
    assert again.manifest == json.loads((tmp_path / "run" / "manifest.json").read_bytes())
    assert again.report.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "20 usable rows of 20" in again.summary()
    with pytest.raises(RunError, match="there is no run folder"):
        Run.read(tmp_path / "none")
    with pytest.raises(RunError, match="contains no comparison: staff compare makes one"):
        Comparison.read(tmp_path / "run")
    (tmp_path / "run" / "selection.parquet").write_bytes(file.read_bytes())
    with pytest.raises(RunError, match="is damaged or from another run"):
        Run.read(tmp_path / "run")


@pytest.fixture(scope="module")
def compared(family, tmp_path_factory):
    """Rows in memory, one file of a user's own; the target once untuned and twice tuned."""
    folder = tmp_path_factory.mktemp("compared")
    rows().select(range(10)).to_parquet(folder / "mine.parquet")
    settings = {
        "test": rows().select([3, 7]),
        "target": family[1],
        "methods": ["random"],
        "own": {"mine": folder / "mine.parquet"},
        "keep": 0.5,
        "seeds": 1,
        "metrics": ["loss"],
        "full": False,
        "epochs": 1,
        "out": folder / "out",
    }
    with pytest.warns(UserWarning, match="2 of 2 test prompts") as said:
        found = compare_coresets(rows(), **settings)
    assert {one.filename for one in said} == {__file__}
    return found, settings


def test_a_comparison_of_rows_in_memory(compared):
    found, settings = compared
    methods = [(row["method"], row["rows"], row["items"]) for row in found.results]
    assert methods == [("untuned", 0, 2), ("random", 10, 2), ("mine", 10, 2)]
    out = settings["out"]
    assert pq.read_table(out / "results.parquet").to_pylist() == found.results
    assert Dataset.from_parquet(str(out.parent / "out-test.parquet"))["n"][:] == [3, 7]
    assert "random" in found.summary()
    assert found.summary(60) == Comparison.read(out).summary(60)
    assert found._repr_markdown_() == (out / "results.md").read_text(encoding="utf-8")
    assert found.report.is_file()
    assert repr(found) == (
        f"Comparison(folder={str(out)!r}, methods=['random', 'mine'], keep=[0.5], seeds=1, "
        "metrics=['loss'])"
    )
    with pytest.raises(RunError, match=r"contains a comparison: Comparison\.read takes it"):
        Run.read(out)


def test_a_comparison_goes_on_with_what_is_missing(compared):
    found, settings = compared
    cell = settings["out"] / "cells" / "random-0.5-seed0" / "cell.json"
    before = cell.stat().st_mtime_ns
    with pytest.warns(UserWarning, match="test prompts"):
        more = compare_coresets(rows(), **{**settings, "own": {}, "metrics": ["loss", "exact"]})
    assert {row["metric"] for row in more.results} == {"loss", "exact"}
    assert {row["method"] for row in more.results} == {"untuned", "random"}
    assert [r["value"] for r in more.results[:2]] == [r["value"] for r in found.results[:2]]
    assert cell.stat().st_mtime_ns > before  # it has another metric now
    with pytest.raises(RunError, match=r"out-test\.parquet contains other rows"):
        compare_coresets(rows(), **{**settings, "test": rows().select([3, 8])})


def test_coresets_of_ones_own_are_given_as_files():
    for own, words in (
        (["mine.jsonl"], r'own takes files by name: own=\{"mine": "mine.jsonl"\}'),
        ({"mine": rows()}, "own has a Dataset as 'mine': write the rows to a file"),
    ):
        with pytest.raises(ConfigError, match=words):
            compare_coresets(rows(), test=rows(), methods=["random"], own=own, keep=0.5, out="out")


def test_messages_name_keywords_not_flags(tmp_path):
    with pytest.raises(ConfigError, match=r"^out is missing: give out=runs/NAME$"):
        select_coreset("a.jsonl", method="random", keep=0.5)
    with pytest.warns(UserWarning, match=r'^cut has no effect with method="random"$'):
        select_coreset(rows(), method="random", keep=0.5, cut=0.2)


def test_what_a_comparison_lacks_is_told_before_anything_is_written(family, tmp_path):
    test = rows().select([0])
    wrong = {
        "out is missing": {"test": test, "target": family[1], "keep": 0.5},
        "test is a list": {"test": test.to_list(), "target": family[1], "out": tmp_path / "out"},
        "nothing to choose": {"test": test, "target": family[1], "out": tmp_path / "out"},
    }
    for words, settings in wrong.items():
        with pytest.raises(StaffError, match=words):
            compare_coresets(rows(), methods=["random"], **settings)
    assert files(tmp_path) == []
