"""The whole job on real pretrained weights and real rows."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from staff import pipeline, planning, select_coreset
from staff.cli.main import main
from staff.data.files import open_source
from staff.data.records import RecordOptions, to_example
from staff.data.tokenise import Tokeniser
from staff.errors import ConfigError, DataError, ModelError, RunError
from staff.hashing import hash_file
from staff.models import load
from staff.reports.text import render
from staff.rng import keys_of_ids
from staff.runs.config import SelectConfig
from staff.runs.manifest import read_manifest
from staff.selectors import select_random
from staff.selectors.stability import stability

COLUMNS = {"prompt_column": "mr", "response_column": "ref"}
SETTINGS = {
    **COLUMNS,
    "keep": (0.1, 0.3),
    "regions": 8,
    "verify_per_region": 5,
    "epochs": 1,
    "dtype": "float32",
}
ROWS = 120


@pytest.fixture(scope="module")
def data(e2e_file):
    return e2e_file(ROWS)


@pytest.fixture(scope="module")
def seen():
    """Token sequences that entered each model's forward, by path; padded ones on the right."""
    rows: dict[str, list[tuple[int, ...]]] = {}
    original = load.load_model

    def watching(path, **settings):
        model = original(path, **settings)

        def note(_module, args, kwargs):
            batch = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
            if lengths := kwargs.get("row_lengths"):
                batch = batch[0].split(lengths)
            rows.setdefault(path, []).extend(tuple(row.tolist()) for row in batch)

        model.register_forward_pre_hook(note, with_kwargs=True)
        return model

    load.load_model = watching
    yield rows
    load.load_model = original


@pytest.fixture(scope="module")
def run(tmp_path_factory, data, family, seen):
    """A finished run; `seen` was filled while it ran."""
    small, target = family
    out = tmp_path_factory.mktemp("runs") / "x"
    return select_coreset(data, small=small, target=target, out=out, **SETTINGS)


def test_only_verified_rows_reach_the_target(run, seen, data, family):
    table = run.table()
    verified = int(table["verified"].sum())
    assert 0 < verified <= SETTINGS["regions"] * SETTINGS["verify_per_region"]
    assert verified < ROWS / 2
    assert run.manifest["target_rows_scored"] == verified
    assert np.array_equal(~np.isnan(table["score_target"]), table["verified"])
    # What entered the target's forward, held against the tokens of every row of the data. (The
    # scorer also sends a probe of its own through each model; it is no row of the data.)
    tokeniser = Tokeniser(load.load_tokenizer(family[1]), max_length=512)
    options = RecordOptions(format="prompt-response", **COLUMNS)
    row_of = {
        tuple(tokeniser.encode(to_example(raw.record, options)).input_ids.tolist()): raw.row
        for raw in open_source(data).records()
    }
    entered = [
        row
        for padded in seen[family[1]]
        for tokens, row in row_of.items()
        if padded[: len(tokens)] == tokens
    ]
    assert sorted(entered) == sorted(table["row"][table["verified"]].tolist())
    assert len(row_of) == ROWS


def test_coresets_are_the_original_lines_in_the_original_order(run, data):
    lines = data.read_bytes().split(b"\n")
    table = run.table()
    for name, total in (("0.1", 12), ("0.3", 36)):
        chosen = run.coresets[name].read_bytes().rstrip(b"\n").split(b"\n")
        rows = table["row"][table[f"selected@{name}"]]
        assert chosen == [lines[row] for row in rows]
        assert len(chosen) == total


def test_every_row_has_a_reason(run):
    table = run.table()
    assert len(table["id"]) == ROWS == len(set(table["id"]))
    cut = table["region"] < 0
    assert cut.sum() == 12  # cut 0.1
    for name in ("0.1", "0.3"):
        reason, selected = table[f"reason@{name}"], table[f"selected@{name}"]
        assert set(reason[cut]) == {"cut"}
        assert np.array_equal(np.isin(reason, ["budget", "top-up"]), selected)


def test_the_manifest_accounts_for_everything(run):
    manifest = run.manifest
    assert [s["name"] for s in manifest["stages"]] == [
        "check", "read", "fine-tune small", "score small", "verify on target", "select", "write",
    ]  # fmt: skip
    assert manifest["data"]["rows_usable"] == ROWS
    tokens = manifest["stages"][1]["tokens"]
    assert manifest["stages"][2]["tokens"] == tokens  # one epoch saw every token once
    assert manifest["stages"][3]["tokens"] == tokens
    for name, digest in manifest["files"].items():
        assert hash_file(run.folder / name) == digest
    for coreset in manifest["coresets"]:
        budgets = sum(region["budgets"][coreset["name"]] for region in manifest["regions"])
        assert budgets + coreset["top_up"] == coreset["total"]
    assert sum(region["size"] for region in manifest["regions"]) == ROWS - manifest["cut"]["rows"]
    assert not (run.folder / "tokens").exists()


def test_the_same_run_elsewhere_leaves_the_same_bytes(run, data, family, tmp_path):
    small, target = family
    again = select_coreset(data, small=small, target=target, out=tmp_path / "y", **SETTINGS)
    differ = {
        name
        for name, digest in run.manifest["files"].items()
        if again.manifest["files"][name] != digest
    }
    assert differ == {"config.yaml"}  # it names its own folder


def test_the_report_is_there_and_can_be_written_again(run, capsys):
    page = run.folder / "report.html"
    first = page.read_bytes()
    assert "report.html" not in run.manifest["files"]  # it can be made from the others
    assert page.stat().st_mtime_ns <= (run.folder / "manifest.json").stat().st_mtime_ns
    page.unlink()
    assert main(["report", str(run.folder)]) == 0
    assert page.read_bytes() == first
    assert f"Report: {page}." in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["report.html", "selection.parquet", "coreset-0.1.jsonl"])
def test_running_again_repeats_nothing(run, data, family, seen, missing):
    before = {path: len(rows) for path, rows in seen.items()}
    small, target = family
    files = dict(run.manifest["files"])
    (run.folder / missing).unlink()
    again = select_coreset(data, small=small, target=target, out=run.folder, **SETTINGS)
    assert {path: len(rows) for path, rows in seen.items()} == before
    reused = [False, False, True, True, True, False, False]
    assert [s["reused"] for s in again.manifest["stages"]] == reused
    assert again.manifest["files"] == files
    for before_, after in zip(
        run.manifest["stages"][2:5], again.manifest["stages"][2:5], strict=True
    ):
        assert after == before_ | {"reused": True}  # with what it cost then


def test_a_finished_run_is_left_as_it_is(run, data, family, tmp_path, traces):
    """By the same command, and by no other; of a selection from stored scores, too."""
    small, target = family
    folder = shutil.copytree(run.folder, tmp_path / "x", ignore=shutil.ignore_patterns(".lock"))
    lists = {"exclude": tmp_path / "ids.txt"}
    lists["exclude"].write_text("nobody\n")
    said: list[str] = []

    def again(**changes):
        settings = {"out": folder, **SETTINGS, "dtype": "float32", **lists, **changes}
        given = {name: str(v) if isinstance(v, Path) else v for name, v in settings.items()}
        config = SelectConfig(data=str(data), small=small, target=target, **given)
        return pipeline.select(config, say=said.append)

    first = again()
    assert not any("already finished" in text for text in said)
    before = traces(folder)
    assert again() == first == read_manifest(folder)
    assert said[-1].startswith(f"already finished: {folder} was made from the same inputs")
    assert traces(folder) == before
    chosen = again_from(folder, tmp_path / "again", said)
    before = traces(tmp_path / "again")
    assert again_from(folder, tmp_path / "again", said) == chosen
    assert traces(tmp_path / "again") == before
    assert said[-1].startswith(f"already finished: {tmp_path / 'again'} was made from the same")

    def made_again(act):
        said.clear()
        found = act()
        assert not any("already finished" in text for text in said)
        assert act() == found  # which is now what is there
        return found

    made_again(lambda: again(keep=(0.1,)))
    lists["exclude"].write_text("nobody\nno one\n")
    made_again(lambda: again(keep=(0.1,)))
    made_again(lambda: again_from(folder, tmp_path / "again", said))  # of a run that is another one
    coreset = folder / "coreset-0.1.jsonl"
    coreset.write_bytes(coreset.read_bytes() + b"\n")
    assert made_again(lambda: again(keep=(0.1,)))["files"][coreset.name] == hash_file(coreset)
    edited = json.loads((folder / "manifest.json").read_text()) | {"coresets": [1]}
    (folder / "manifest.json").write_text(json.dumps(edited))
    made_again(lambda: again(keep=(0.1,)))
    before = traces(folder)
    again(keep=(0.1,), overwrite=True)
    assert traces(folder) != before
    assert "already finished" in (again(keep=(0.1,)), said[-1])[1]


def again_from(scores, out, said):
    config = SelectConfig(scores=str(scores), total=(5,), out=str(out))
    return pipeline.reselect(config, say=said.append)


def test_a_list_of_ids_is_read_once(tmp_path, monkeypatch):
    """What is chosen, what it was made from and the hash in the manifest are of the same bytes."""
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"text": "row {i}"}}\n' for i in range(9)))
    never = tmp_path / "never.txt"
    never.write_text("nobody\n")
    config = {"data": str(tmp_path / "rows.jsonl"), "method": "random", "total": (2,)}
    config = SelectConfig(**config, exclude=str(never), out=str(tmp_path / "run"))
    read, opened = [], Path.open

    def noted(path, *arguments, **named):
        read.append(path)
        return opened(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", noted)
    found = pipeline.select(config)
    assert read.count(never) == 1
    assert pipeline.select(config) == found
    assert read.count(never) == 2
    assert found["exclude"]["sha256"] == hash_file(never)


def test_the_same_bytes_as_another_kind_of_file_are_other_data(tmp_path):
    """A folder is the same setting, and the hash of its one file the same, whatever its name."""
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "a.csv").write_text("text\none, two\nthree\nfour\n")  # as TSV it has three rows
    settings = {"data": folder, "method": "random", "total": 1, "on_bad_row": "skip"}
    usable = []
    for name in ("a.csv", "a.tsv"):
        next(folder.iterdir()).rename(folder / name)
        found = select_coreset(out=tmp_path / "run", **settings)
        usable.append(found.manifest["data"]["rows_usable"])
    assert usable == [2, 3]


def test_another_configuration_in_the_same_folder_is_refused(run, data, family):
    small, target = family
    with pytest.raises(RunError, match="epochs = 1, now it is 2"):
        select_coreset(
            data, small=small, target=target, out=run.folder, **{**SETTINGS, "epochs": 2}
        )


def test_changed_contents_are_refused(data, family, tmp_path):
    """Of the data, a model and a tokenizer, where name, length and settings are the same."""
    copies = {"train.jsonl": data, "small": Path(family[0]), "target": Path(family[1])}
    for name, origin in copies.items():
        copy = shutil.copytree if origin.is_dir() else shutil.copy
        copy(origin, tmp_path / name)
    small, target = tmp_path / "small", tmp_path / "target"
    asked = {"small": small, "target": target, "skip_finetune": True, **SETTINGS}

    def go(**changes):
        return select_coreset(tmp_path / "train.jsonl", out=tmp_path / "x", **{**asked, **changes})

    before = go().manifest
    changes = [
        (tmp_path / "train.jsonl", b"moderate", b"mod3rate", "data"),
        (small / "model.safetensors", None, None, "small"),
        (target / "chat_template.jinja", b"message", b"massage", "tokenizer of target"),
    ]
    for path, old, new, what in changes:
        content = path.read_bytes()
        changed = content.replace(old, new, 1) if old else content[:-1] + bytes([content[-1] ^ 1])
        assert changed != content
        path.write_bytes(changed)
        with pytest.raises(RunError, match=rf"other contents: the {what}, .*, had SHA-256") as e:
            go()
        if what == "data":
            assert before["data"]["sha256"][:16] in str(e.value)
            assert hash_file(path)[:16] in str(e.value)
        path.write_bytes(content)
    assert go().manifest["coresets"] == before["coresets"]  # nothing was lost
    changed = (tmp_path / "train.jsonl").read_bytes().replace(b"moderate", b"mod3rate", 1)
    (tmp_path / "train.jsonl").write_bytes(changed)
    assert go(overwrite=True).manifest["data"]["sha256"] != before["data"]["sha256"]
    go()  # which is now what the folder was made from


def test_selecting_again_from_stored_scores_gives_the_same_coresets(run, tmp_path, seen):
    before = {path: len(rows) for path, rows in seen.items()}
    config = SelectConfig(scores=str(run.folder), keep=(0.1, 0.3), out=str(tmp_path / "again"))
    manifest = pipeline.reselect(config)
    assert {path: len(rows) for path, rows in seen.items()} == before  # no model was asked
    for name in ("0.1", "0.3"):
        ours = tmp_path / "again" / f"coreset-{name}.jsonl"
        assert ours.read_bytes() == run.coresets[name].read_bytes()
    assert manifest["target_rows_scored"] == 0
    # What to type next reads the coreset as the data were read.
    again = render(manifest, folder=str(tmp_path / "again"))
    assert "--prompt-column mr --response-column ref --out" in again
    # And the manifest says what the scores were made with, which no flag of this run could say.
    before, now = (read_manifest(folder)["config"] for folder in (run.folder, tmp_path / "again"))
    for name in ("epochs", "learning_rate", "batch_size", "phi", "dtype", "max_length"):
        assert now[name] == before[name]


def test_a_device_that_is_not_there_leaves_a_finished_run_alone(run, data, family):
    small, target = family
    before = (run.folder / "manifest.json").read_bytes()
    with pytest.raises(ConfigError, match="'cuda:99' is not available"):
        select_coreset(
            data, small=small, target=target, out=run.folder, device="cuda:99", **SETTINGS
        )
    assert (run.folder / "manifest.json").read_bytes() == before


def test_an_unknown_setting_is_met_with_the_nearest(data):
    with pytest.raises(ConfigError, match="unknown setting 'keap'; did you mean 'keep'"):
        select_coreset(data, keap=0.1)


def test_sizes_may_be_an_array(data, tmp_path):
    run = select_coreset(
        data, method="random", keep=np.array([0.1, 0.2]), out=tmp_path / "r", **COLUMNS
    )
    assert list(run.coresets) == ["0.1", "0.2"]


def test_selecting_again_with_more_regions_uses_what_is_verified(run, tmp_path):
    config = SelectConfig(
        scores=str(run.folder), total=(20,), regions=120, within="random", verify_per_region=1,
        out=str(tmp_path / "r"),
    )  # fmt: skip
    foreseen = planning.plan(config)["warnings"]
    assert foreseen[0].startswith("120 regions are too many for ")
    said: list[str] = []
    manifest = pipeline.reselect(config, say=said.append)
    assert [f"warning: {text}" for text in foreseen] == said[:1]
    table = pq.read_table(tmp_path / "r" / "selection.parquet")
    assert sum(table["selected@n20"].to_pylist()) == 20
    known = table["score_target"].filter(table["verified"])
    assert len(known) > 0
    assert known.null_count == 0
    assert manifest["config"]["regions"] == 120


def test_the_order_of_the_input_does_not_matter(data, family, tmp_path):
    small, target = family
    lines = data.read_text(encoding="utf-8").rstrip("\n").split("\n")
    random.Random(5).shuffle(lines)
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    settings = {**SETTINGS, "keep": (0.2,)}
    chosen, adapters = [], []
    for name, path in (("a", data), ("b", mixed)):
        found = select_coreset(path, small=small, target=target, out=tmp_path / name, **settings)
        chosen.append(sorted(found.coresets["0.2"].read_text(encoding="utf-8").split("\n")))
        adapters.append((tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes())
    assert chosen[0] == chosen[1]
    assert adapters[0] == adapters[1]


def test_random_needs_no_model(data, tmp_path):
    config = SelectConfig(
        data=str(data), method="random", total=(10,), out=str(tmp_path / "r"), **COLUMNS
    )
    manifest = pipeline.select(config)
    assert len((tmp_path / "r" / "coreset-n10.jsonl").read_text().splitlines()) == 10
    assert "regions" not in manifest


def test_stability_is_of_the_draws_of_the_next_seeds(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"text": "row {i}"}}\n' for i in range(30)))
    run = select_coreset(
        tmp_path / "rows.jsonl", method="random", total=9, seed=4, stability=3, out=tmp_path / "r"
    )
    keys = keys_of_ids(run.table()["id"], 4)
    draws = [select_random(keys=keys, total=9, seed=seed).rows for seed in (4, 5, 6)]
    assert np.flatnonzero(run.table()["selected@n9"]).tolist() == draws[0].tolist()
    found = stability(draws, 30)
    assert run.manifest["stability"]["n9"] == {"seeds": 3, **found._asdict()}
    assert found.jaccard < 1


def test_several_files_give_what_they_would_as_one(data, tmp_path):
    lines = data.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "shards").mkdir()
    for n in range(3):
        part = [*lines[50 * n : 50 * (n + 1) if n < 2 else None], *(["{\n"] if n == 1 else [])]
        (tmp_path / "shards" / f"{n}.jsonl").write_text("".join(part), encoding="utf-8")
    chosen = []
    for place in (data, tmp_path / "shards"):
        config = SelectConfig(
            data=str(place), method="random", total=(10,), on_bad_row="skip",
            out=str(tmp_path / f"of-{place.name}"), **COLUMNS,
        )  # fmt: skip
        manifest = pipeline.select(config)
        chosen.append((Path(config.folder) / "coreset-n10.jsonl").read_bytes())
    assert chosen[0] == chosen[1]
    assert manifest["data"]["files"] == 3
    assert "shards (3 files, prompt-response)" in render(manifest, folder=config.folder)
    rejected = json.loads((Path(config.folder) / "rejected.jsonl").read_text())
    assert (rejected["file"], rejected["line"], rejected["row"]) == ("1.jsonl", 51, 100)


def test_sources_reach_the_selection(data, tmp_path):
    lines = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    path = tmp_path / "sources.jsonl"
    records = ({**line, "from": "ab"[i % 2]} for i, line in enumerate(lines))
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    out = tmp_path / "r"
    settings = {"data": path, "method": "random", "total": 10, "out": out, **COLUMNS}
    run = select_coreset(source_column="from", **settings)
    assert run.table()["source"].tolist() == ["ab"[i % 2] for i in range(ROWS)]
    assert run.manifest["data"]["reading"] == {
        "format": "prompt-response", "source_column": "from", **COLUMNS,
    }  # fmt: skip


def test_bad_rows_stop_the_run_or_are_set_aside(data, family, tmp_path):
    small, target = family
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(data.read_bytes() + b'{"mr":"x","ref":""}\nnot json\n{"mr":"x"}\n')
    settings = {**SETTINGS, "skip_finetune": True, "keep": (0.1,)}
    with pytest.raises(DataError, match=r"3 of 123 rows cannot be used") as caught:
        select_coreset(bad, small=small, target=target, out=tmp_path / "a", **settings)
    assert f"line {ROWS + 1} (row {ROWS}): response is empty" in str(caught.value)
    assert not (tmp_path / "a" / "manifest.json").exists()
    run = select_coreset(
        bad, small=small, target=target, out=tmp_path / "b", on_bad_row="skip", **settings
    )
    assert run.manifest["data"]["rejected"] == 3
    rejected = (tmp_path / "b" / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in rejected] == [ROWS, ROWS + 1, ROWS + 2]


def test_no_duplicate_is_chosen_where_they_are_skipped(data, family, tmp_path):
    small, target = family
    lines = data.read_text().splitlines()
    repeated = tmp_path / "repeated.jsonl"
    repeated.write_text("\n".join([*lines[:40], *lines[:40], *lines[:20]]) + "\n")
    models = {"small": small, "target": target, "skip_finetune": True}
    run = select_coreset(
        repeated, out=tmp_path / "a", on_duplicate="skip", **SETTINGS | models | {"keep": (1.0,)}
    )
    facts = run.manifest["data"]
    assert (facts["rows_usable"], facts["rejected"], facts["duplicates"]) == (40, 60, 60)
    assert run.coresets["1"].read_text().splitlines() == lines[:40]
    assert "60 duplicates (among those skipped)" in " ".join(run.summary().split())
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert "60 rows with the contents of an earlier one (among those skipped)" in page
    # Scores are of the rows that were left: they are not mixed with those of all rows.
    with pytest.raises(RunError, match="on_duplicate"):
        select_coreset(repeated, out=tmp_path / "a", **SETTINGS | models | {"keep": (1.0,)})
    again = select_coreset(scores=tmp_path / "a", keep=0.5, out=tmp_path / "b")
    assert again.manifest["config"]["on_duplicate"] == "skip"
    assert len(again.coresets["0.5"].read_text().splitlines()) == 20
    whole = select_coreset(repeated, out=tmp_path / "c", **SETTINGS | models | {"keep": (1.0,)})
    assert "60 duplicates (kept)" in " ".join(whole.summary().split())


def test_a_total_above_n_is_refused(data, family, tmp_path):
    small, target = family
    with pytest.raises(ConfigError, match=r"total=500: .*train.jsonl has only 120 rows"):
        select_coreset(
            data, small=small, target=target, out=tmp_path / "a", total=500, skip_finetune=True,
            **COLUMNS,
        )  # fmt: skip


def test_a_length_beyond_the_context_is_refused(data, family, tmp_path):
    small, target = family
    with pytest.raises(ConfigError, match=r"max_length=9999: .* takes at most 512 tokens"):
        select_coreset(
            data, small=small, target=target, out=tmp_path / "a", keep=0.1, max_length=9999,
            **COLUMNS,
        )  # fmt: skip


def test_a_missing_model_is_found_at_once(data, family, tmp_path):
    with pytest.raises(ModelError, match=r"model folder \./nowhere does not exist"):
        select_coreset(
            data, small="./nowhere", target=family[1], out=tmp_path / "a", keep=0.1, **COLUMNS
        )


def test_a_plan_counts_and_leaves_nothing(data, family, tmp_path, run):
    small, target = family
    config = SelectConfig(
        data=str(data), small=small, target=target, out=str(tmp_path / "p"), **SETTINGS
    )
    plan = planning.plan(config)
    assert plan["rows"] == ROWS
    assert plan["stages"][0]["tokens"] == run.manifest["stages"][1]["tokens"]
    assert plan["stages"][-2]["rows"] == 40  # 8 regions of 5
    assert not Path(tmp_path / "p").exists()


def test_a_refused_command_leaves_a_finished_run_alone(run, data, family):
    before = {p.name: p.read_bytes() for p in run.folder.iterdir() if p.is_file()}
    small, target = family
    settings = {**SETTINGS, "keep": (), "total": (500,)}
    with pytest.raises(ConfigError, match="only 120 rows"):
        select_coreset(data, small=small, target=target, out=run.folder, **settings)
    assert {p.name: p.read_bytes() for p in run.folder.iterdir() if p.is_file()} == before
    assert not (run.folder / "tokens").exists()


def test_the_printed_advice_works_in_the_same_folder(data, family, tmp_path):
    small, target = family
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(data.read_bytes() + b"not json\n")
    settings = {**SETTINGS, "skip_finetune": True, "keep": (0.1,)}
    with pytest.raises(DataError, match='on_bad_row="skip"'):
        select_coreset(bad, small=small, target=target, out=tmp_path / "a", **settings)
    run = select_coreset(
        bad, small=small, target=target, out=tmp_path / "a", on_bad_row="skip", **settings
    )
    assert run.manifest["data"]["rejected"] == 1


def test_selecting_again_at_random_is_random(run, tmp_path):
    settings = {"scores": str(run.folder), "method": "random", "total": (15,)}
    again = select_coreset(out=tmp_path / "a", **settings)
    plain = pipeline.select(
        SelectConfig(
            data=run.manifest["data"]["path"],
            method="random",
            total=(15,),
            out=str(tmp_path / "b"),
            **COLUMNS,
        )
    )
    assert plain["files"]["coreset-n15.jsonl"] == again.manifest["files"]["coreset-n15.jsonl"]
    assert "regions" not in again.manifest


def test_a_random_run_has_no_scores_to_select_from(data, tmp_path):
    out = tmp_path / "r"
    pipeline.select(
        SelectConfig(data=str(data), method="random", total=(10,), out=str(out), **COLUMNS)
    )
    with pytest.raises(RunError, match="has no scores: it was made by the method random"):
        select_coreset(scores=out, keep=0.5, method="staff", out=tmp_path / "again")


def test_other_vocabularies_are_told(data, family, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    small, target = family
    other = tmp_path / "other"
    AutoModelForCausalLM.from_pretrained(target).save_pretrained(other)
    pieces = ["<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>").save_pretrained(other)
    for model, warnings in ((target, 0), (str(other), 1)):
        said = []
        config = SelectConfig(
            data=str(data), small=small, target=model, skip_finetune=True,
            out=str(tmp_path / f"run{warnings}"), **SETTINGS,
        )  # fmt: skip
        pipeline.select(config, say=said.append)
        assert sum("different vocabularies" in line for line in said) == warnings
        found = [line.removeprefix("warning: ") for line in said if line.startswith("warning: ")]
        assert found == planning.plan(config)["warnings"]  # what a dry run tells, each once
        assert ("chat template" in found[0]) == (model == target)


def test_swapped_models_are_told(data, family, tmp_path):
    small, target = family
    config = SelectConfig(
        data=str(data), small=target, target=small, out=str(tmp_path / "run"), **SETTINGS
    )
    # A run says what its dry run says: the test above.
    assert (
        "the small model (4,000,000 parameters) is larger than the target (1,115,008): are the "
        "two models swapped?"
    ) in planning.plan(config)["warnings"]
    # Where git fetched no weights a few words stand for them: a plan does without, a run does not.
    words = shutil.copytree(small, tmp_path / "words")
    (words / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    config = config.model_copy(update={"target": str(words)})
    assert not any("swapped" in line for line in planning.plan(config)["warnings"])
    with pytest.raises(ModelError, match="cannot be read"):
        pipeline.select(config)
    assert not (tmp_path / "run" / "scores").exists()  # nor was anything scored first


def test_the_commit_of_hub_data_is_in_the_manifest_and_read_again(hub_data, family, tmp_path):
    records = [{"prompt": f"prompt {i}", "response": f"answer {i}"} for i in range(20)]
    commit, out = hub_data(records), tmp_path / "x"
    settings = {"method": "random", "keep": 0.5}
    run = select_coreset("someone/some-data", out=out, **settings)
    assert run.manifest["data"]["revision"] == commit
    assert f"<td><bdi>{commit}</bdi></td>" in (out / "report.html").read_text(encoding="utf-8")
    again = select_coreset(scores=out, out=tmp_path / "y", **settings)
    assert again.manifest["data"]["revision"] == commit
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["data"]["revision"] = "f" * 40  # the earlier run read another one
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=f"requested at revision {'f' * 40}, but .*is {commit}"):
        select_coreset(scores=out, out=tmp_path / "z", **settings)
