"""score, finetune and evaluate by themselves, on the embedded small model and real rows."""

import gc
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from staff import single
from staff.checks import check_inputs
from staff.errors import DataError, RunError
from staff.hashing import hash_file
from staff.models.folder import model_hash
from staff.runs.config import EvaluateConfig, FinetuneConfig, ScoreConfig
from staff.runs.manifest import versions
from staff.stages.lazy_scorer import LazyScorer
from staff.training.statistics import mean_interval

COLUMNS = {"prompt_column": "mr", "response_column": "ref", "dtype": "float32", "device": "cpu"}
BAD = json.dumps({"mr": "name[x]", "ref": ""})


@pytest.fixture
def data(tmp_path, e2e_rows):
    def write(lines):
        path = tmp_path / f"rows-{len(list(tmp_path.glob('rows-*')))}.jsonl"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return str(path)

    write.rows = e2e_rows[:12]
    return write


def test_score(data, family, tmp_path, traces):
    out = tmp_path / "scored"
    settings = {"model": family[0], "out": str(out), "on_bad_row": "skip", **COLUMNS}
    config = ScoreConfig(data=data([BAD, *data.rows]), **settings)
    manifest = single.score(config)
    table = pq.read_table(out / "scores" / "small" / "part-00000.parquet")
    assert table["row"].to_pylist() == list(range(1, 13))
    assert np.all(table["effort"].to_numpy() > 0)
    assert manifest["data"]["rejected"] == 1
    assert [stage["rows"] for stage in manifest["stages"]] == [0, 13, 12]
    assert manifest["files"].keys() == {
        "config.yaml",
        "rejected.jsonl",
        "scores/small/part-00000.parquet",
    }
    assert not (out / "tokens").exists()
    before, said = traces(out), []
    assert single.score(config, say=said.append) == manifest
    assert said[0].startswith(f"already finished: {out} was made from the same inputs")
    assert single.is_finished(config)
    assert traces(out) == before
    (out / "rejected.jsonl").unlink()
    assert not single.is_finished(config)
    again = single.score(config)  # nothing is scored twice
    assert [stage["reused"] for stage in again["stages"]] == [False, False, True]
    assert again["files"] == manifest["files"]
    with pytest.raises(RunError, match="--overwrite"):
        single.score(ScoreConfig(data=config.data, max_length=64, **settings))


def test_scores_without_padding_are_those_with_it(data, family, tmp_path, monkeypatch):
    """The kernel is part of what scores are made from; how batches are laid out is not.

    On a CPU they are laid end to end anyway, and attention goes by row instead of by a mask.
    """
    from staff.scores import flat as module

    made, original = [], module.Flat.inputs
    monkeypatch.setattr(
        module.Flat, "inputs", lambda flat, **how: made.append(flat) or original(flat, **how)
    )
    config = ScoreConfig(data=data(data.rows), model=family[0], out=str(tmp_path / "x"), **COLUMNS)
    part = tmp_path / "x" / "scores" / "small" / "part-00000.parquet"
    single.score(config)
    by_row = pq.read_table(part)
    assert made
    assert all(one.laying.by_row for one in made)
    made.clear()
    flat = config.model_copy(update={"padding_free": True})
    assert single.score(flat)["stages"][-1]["reused"]
    assert not made
    single.score(flat.model_copy(update={"overwrite": True}))
    assert max(one.batch for one in made) == len(by_row)
    assert not any(one.laying.by_row for one in made)
    for name in ("effort", "loss", "entropy", "el2n"):
        found, wanted = (table[name].to_numpy() for table in (pq.read_table(part), by_row))
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
    with pytest.raises(RunError, match=r"attention.*--overwrite"):
        single.score(config.model_copy(update={"attention": "eager"}))


@pytest.fixture
def tune(data, family, tmp_path):
    def config(**changes):
        settings = {"model": family[0], "out": str(tmp_path / "tuned"), "max_steps": 2, "rank": 2}
        settings |= COLUMNS | changes
        return FinetuneConfig(data=settings.pop("data", None) or data(data.rows), **settings)

    def run(say=print, **changes):
        return single.finetune(config(**changes), say=say)

    run.config = config
    return run


def test_finetune(tune, data, tmp_path):
    facts = tune(data=data([BAD, *data.rows]), on_bad_row="skip")
    assert facts["rows"] == 12
    assert facts["steps"] == 2
    assert (facts["rejected"], facts["truncated"]) == (1, 0)
    kept = tmp_path / "tuned-rejected.jsonl"
    assert facts["rejected_rows"] == str(kept)
    assert json.loads(kept.read_text())["row"] == 0
    names = {path.name for path in (tmp_path / "tuned").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "loss.jsonl", "staff.json"}


def test_an_adapter_may_go_into_the_working_folder(tune, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert tune(out=".", max_steps=1)["adapter"] == str(tmp_path / "here")
    assert (tmp_path / "here" / "staff.json").is_file()


def test_a_finished_adapter_is_left_as_it_is_by_the_same_command_alone(
    tune, data, tmp_path, traces
):
    file, out, said = data([*data.rows, BAD]), tmp_path / "tuned", []
    how = {"data": file, "on_bad_row": "skip"}
    facts = tune(**how)
    before = traces(out)
    check_inputs(tune.config(**how))  # nor is it refused before torch is there
    assert tune(**how, say=said.append) == facts
    assert said[0].startswith(f"already finished: {out} was made from the same inputs")
    assert single.is_finished(tune.config(**how))
    assert not single.is_finished(tune.config(**how, overwrite=True))
    assert traces(out) == before
    with pytest.raises(RunError, match="already holds files"):
        single.is_finished(tune.config(**how, rank=3))  # what a dry run asks
    with pytest.raises(RunError, match="already holds files"):
        tune(**how, rank=3)
    content = Path(file).read_text()
    Path(file).write_text(content.replace("name[", "eman[", 1))
    with pytest.raises(RunError, match="already holds files"):
        tune(**how)
    Path(file).write_text(content)
    assert tune(**how) == facts
    for damaged in (tmp_path / "tuned-rejected.jsonl", out / "loss.jsonl"):
        kept = damaged.read_bytes()
        damaged.unlink()
        with pytest.raises(RunError, match="already holds files"):
            tune(**how)
        damaged.write_bytes(kept)
    tune(**how, overwrite=True)
    assert traces(tmp_path)[out / "loss.jsonl"] != before[out / "loss.jsonl"]


@pytest.fixture
def models_in_memory():
    """Counts the causal LMs there are, by type, while nothing is collected by itself."""
    gc.collect()
    gc.disable()
    yield lambda: sum(type(thing).__name__ == "LlamaForCausalLM" for thing in gc.get_objects())
    gc.enable()


def test_an_adapter_in_its_place_is_finished_whatever_comes_then(tune, data, tmp_path, traces):
    """Its note comes with it: a process killed right after that is not started again for nothing."""

    def killed(facts):
        raise KeyboardInterrupt

    file = data(data.rows)
    with pytest.raises(KeyboardInterrupt):
        single.finetune(tune.config(data=file), on_placed=killed)
    assert (tmp_path / ".tuned.partial").is_dir()
    adapter, said = traces(tmp_path / "tuned"), []
    tune(data=file, say=said.append)
    assert said[0].startswith("already finished")
    assert traces(tmp_path / "tuned") == adapter
    assert [path.name for path in tmp_path.glob(".tuned*")] == []


def test_a_fine_tuned_model_is_let_go_of(tune, data, models_in_memory):
    before = models_in_memory()
    tune(data=data(data.rows), max_steps=1)
    assert models_in_memory() == before


def test_a_model_that_was_spread_is_let_go_of(data, family, tmp_path, models_in_memory):
    config = ScoreConfig(
        data=data(data.rows), model=family[0], out=str(tmp_path / "x"), device_map="auto",
        max_memory="cpu=3MB", **COLUMNS,
    )  # fmt: skip
    scorers = [LazyScorer(config, model=family[0], adapter=None) for _ in range(2)]
    for scorer in scorers:
        before = models_in_memory()
        scorer._load()
    assert models_in_memory() == before


def test_finetune_overwrites_only_when_told_and_only_what_is_its_own(tune, data, tmp_path):
    out = tmp_path / "tuned"
    out.mkdir()
    (out / "adapter_config.json").write_text("old")
    (out / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="--overwrite"):
        tune(data=str(tmp_path / "nowhere.jsonl"))  # said before the data is even opened
    with pytest.raises(DataError):
        tune(data=data([BAD]), overwrite=True)
    assert (out / "adapter_config.json").read_text() == "old"  # nothing was lost by that
    tune(overwrite=True)
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 2
    assert (out / "mine.txt").read_text() == "mine"


@pytest.fixture
def measure(data, family):
    def run(lines, say=print, **changes):
        settings = {"model": family[0], **COLUMNS, **changes}
        file = settings.pop("data", None) or data(lines)
        return single.evaluate(EvaluateConfig(data=file, **settings), say=say)

    return run


def test_evaluate(measure, data, tmp_path):
    out = tmp_path / "measured"
    facts = measure(
        [*data.rows, BAD], on_bad_row="skip", out=str(out), max_length=96, max_new_tokens=12
    )
    items = pq.read_table(out / "items.parquet")
    assert facts["rows"] == len(items) == 12
    assert 0 < facts["truncated"] < 12
    assert facts["rejected"] == 1
    assert facts["rejected_rows"] == str(out / "rejected.jsonl")
    assert json.loads((out / "rejected.jsonl").read_text())["reason"] == "response is empty"
    # References are the data's own words, whole where the row was cut.
    assert items["reference"].to_pylist() == [json.loads(row)["ref"] for row in data.rows]
    for metric in ("loss", "rougeL", "exact"):
        assert facts[metric]["value"] == pytest.approx(items[metric].to_numpy().mean())
    for metric in ("loss", "rougeL", "bleu"):
        low, high = facts[metric]["interval"]
        assert low <= facts[metric]["value"] <= high
        assert low < high
    assert json.loads((out / "metrics.json").read_text())["bleu"] == facts["bleu"]


def test_results_are_left_as_they_are_by_the_same_command_alone(
    measure, data, family, tmp_path, traces
):
    file, out, said = data([*data.rows[:4], BAD]), tmp_path / "measured", []
    how = {"data": file, "metrics": ("loss",), "on_bad_row": "skip", "out": str(out)}
    facts = measure((), **how)
    written = json.loads((out / "metrics.json").read_text())
    assert (written["format"], written["command"]) == (1, "evaluate")
    assert written["data"] == {"path": file, "sha256": hash_file(file)}
    assert written["models"]["model"]["hash"] == model_hash(family[0])
    assert written["versions"] == versions()
    assert written["files"] == {
        name: hash_file(out / name) for name in ("items.parquet", "rejected.jsonl")
    }
    before = traces(out)
    check_inputs(EvaluateConfig(model=family[0], **COLUMNS, **how))
    again = measure((), **how, say=said.append)
    assert list(again.items()) == list(json.loads(json.dumps(facts)).items())  # in their order
    assert said[0].startswith(f"already finished: {out} was made from the same inputs")
    for change in ({"metrics": ("loss", "exact")}, {"max_length": 64}, {"data": data(data.rows)}):
        changed = EvaluateConfig(model=family[0], **COLUMNS, **{**how, **change})
        with pytest.raises(RunError, match="results of another evaluation"):
            single.is_finished(changed)
        with pytest.raises(RunError, match="results of another evaluation"):
            measure((), **{**how, **change})
    assert single.is_finished(EvaluateConfig(model=family[0], **COLUMNS, **how))
    assert traces(out) == before
    (out / "items.parquet").write_bytes(b"")
    with pytest.raises(RunError, match="results of another evaluation"):
        measure((), **how)
    assert measure((), **how, overwrite=True) == facts


def test_what_a_killed_evaluation_leaves_does_not_speak_of_other_items(
    measure, data, family, tmp_path, monkeypatch
):
    out = tmp_path / "measured"
    measure(data.rows, metrics=("loss",), out=str(out))

    def killed(*_, **__):
        raise KeyboardInterrupt

    fresh = {
        "data": data([*data.rows[:4], BAD]),
        "on_bad_row": "skip",
        "out": str(tmp_path / "new"),
    }
    with monkeypatch.context() as patched:
        patched.setattr(single, "measure", killed)
        with pytest.raises(KeyboardInterrupt):
            measure((), metrics=("loss",), **fresh)
    check_inputs(EvaluateConfig(model=family[0], **COLUMNS, **fresh))  # it can be run again
    monkeypatch.setattr("staff.runs.manifest.write_manifest", killed)
    with pytest.raises(KeyboardInterrupt):
        measure(data.rows[:4], metrics=("loss",), out=str(out), overwrite=True)
    assert not (out / "metrics.json").exists()
    assert len(pq.read_table(out / "items.parquet")) == 4


def test_an_evaluation_does_not_replace_what_another_one_left_meanwhile(
    measure, data, tmp_path, monkeypatch
):
    how = {"data": data(data.rows[:3]), "metrics": ("loss",), "out": str(tmp_path / "measured")}
    measured = single.measure

    def slow(**given):
        monkeypatch.setattr(single, "measure", measured)
        measure((), **{**how, "data": data(data.rows[:2])})
        return measured(**given)

    monkeypatch.setattr(single, "measure", slow)
    with pytest.raises(RunError, match="results of another evaluation"):
        measure((), **how)
    assert len(pq.read_table(tmp_path / "measured" / "items.parquet")) == 2


def test_data_may_change_once_they_are_read_for_an_evaluation(measure, data, tmp_path, monkeypatch):
    path, read = Path(data(data.rows[:3])), single.reading.read
    how = {"data": str(path), "metrics": ("loss",), "out": str(tmp_path / "measured")}

    def changing(*given, **more):
        path.write_text("\n".join(data.rows[:2]))
        return read(*given, **more)

    def late(**given):
        path.write_text("")
        return measured(**given)

    measured = single.measure
    monkeypatch.setattr(single.reading, "read", changing)
    with pytest.raises(DataError, match="changed while it was read"):
        measure((), **how)
    monkeypatch.setattr(single, "measure", late)
    assert measure((), **how)["rows"] == 2


def test_evaluate_takes_the_test_split(data, family, tmp_path):
    (tmp_path / "set").mkdir()
    for name, count in (("train", 12), ("test", 3)):
        (tmp_path / "set" / f"{name}.jsonl").write_text("\n".join(data.rows[:count]))
    config = EvaluateConfig(
        data=str(tmp_path / "set"), model=family[0], metrics=("loss",), **COLUMNS
    )
    check_inputs(config)
    assert single.evaluate(config)["rows"] == 3


@pytest.mark.parametrize("name", ["manifest.json", "config.yaml", "rejected.jsonl"])
def test_evaluate_refuses_the_folder_of_a_run(data, family, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    settings = {"data": data(data.rows), "model": family[0], "out": str(tmp_path / "out")}
    with pytest.raises(RunError, match="contains a run, not an evaluation"):
        check_inputs(EvaluateConfig(**settings, overwrite=True, **COLUMNS))


def test_finetune_leaves_somebody_elses_rejected_rows(tune, tmp_path):
    mine = tmp_path / "tuned-rejected.jsonl"
    mine.write_text("mine")
    tune()
    assert mine.read_text() == "mine"


def test_bleu_and_its_interval_are_of_the_corpus(measure, data, tmp_path, monkeypatch):
    from sacrebleu.metrics import BLEU

    said = [json.loads(row)["ref"] for row in data.rows]
    said[:6] = [text.replace(" the ", " a ") + " near" for text in said[:6]]
    monkeypatch.setattr("staff.training.evaluate.predict", lambda **_: said)
    out = tmp_path / "measured"
    facts = measure(data.rows, metrics=("bleu",), out=str(out))
    items = pq.read_table(out / "items.parquet")
    corpus = BLEU().corpus_score(said, [items["reference"].to_pylist()]).score
    assert facts["bleu"]["value"] == pytest.approx(corpus)
    low, high = facts["bleu"]["interval"]
    assert low < corpus < high
    assert items["bleu"].to_numpy().mean() != pytest.approx(corpus, abs=0.1)


def test_an_interval_over_few_items_is_as_wide_as_they_ask_for(measure, data, tmp_path):
    out = tmp_path / "measured"
    facts = measure(data.rows[:5], metrics=("loss",), out=str(out))
    losses = pq.read_table(out / "items.parquet")["loss"].to_numpy()
    value, plain_low, plain_high = mean_interval(losses)
    low, high = facts["loss"]["interval"]
    # √(5/4), and 2.776 of Student's t with 4 degrees of freedom for 1.960.
    assert (high - low) / (plain_high - plain_low) == pytest.approx(1.583, abs=0.002)
    assert low < value < high
    # From 1 to 4.5 as resampled; 2.69 times as wide it would have ends that no BLEU has.
    assert single._widened((2.0, 1.0, 4.5), 3, most=100.0) == pytest.approx([0, 8.7], abs=0.05)
    assert single._widened((98.0, 96.0, 99.0), 3, most=100.0) == pytest.approx(
        [92.6, 100], abs=0.05
    )
    alone = measure(data.rows[:1], metrics=("loss", "exact"))
    assert alone["loss"]["interval"] is None  # one item tells nothing of others
    assert alone["exact"]["interval"][1] - alone["exact"]["interval"][0] > 0.5


def test_evaluate_without_a_folder_says_that_rejected_rows_are_gone(measure, data):
    facts = measure([BAD, *data.rows], on_bad_row="skip", metrics=("loss",))
    assert facts["rejected_rows"] == "not kept (give --out to keep them)"
    assert measure(data.rows, metrics=("loss",)).keys() == {"rows", "rejected", "truncated", "loss"}
