"""Which selections are made, in which order, and what each method's cost is made of."""

import json
import types
from types import MappingProxyType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from staff.compare import selection
from staff.compare.selection import choose
from staff.errors import DataError
from staff.hashing import hash_file
from staff.ledger import LEDGER
from staff.runs.compare_folder import CompareFolder
from staff.runs.manifest import begin, write_manifest
from staff.runs.store import RunFolder
from staff.selectors import needs

KNOWN = {
    "data": "d",
    "models": {
        "small": {"path": "s", "hash": "s", "tokenizer": "words"},
        "target": {"path": "t", "hash": "t", "tokenizer": "words"},
    },
}
COST = {
    "check": 1.0, "fine-tune small": 100.0, "score small": 10.0, "score responses alone": 20.0,
    "verify on target": 40.0, "select": 2.0, "write": 4.0,
}  # fmt: skip


@pytest.fixture
def calls(monkeypatch):
    """Stands in for `staff.pipeline` and lists what it was asked for."""
    asked = []

    def leave(config, stages, models, how_read=MappingProxyType({})):
        folder = RunFolder(config.folder)
        folder.path.mkdir(parents=True, exist_ok=True)
        size = {"total": 1, "top_up": 0}
        coresets = [size | {"name": n, "path": f"coreset-{n}.jsonl"} for n in config.coreset_names]
        for coreset in coresets:
            (folder.path / coreset["path"]).write_text(f"{config.method} {config.seed}")
        counts = {"rows": 1, "tokens": 1, "reused": False}
        rows = {"format": "text", "rows_read": 12, "rows_usable": 12, "rejected": 0, "truncated": 0}
        rows["duplicates"] = 3
        manifest = begin("select", config.model_dump(mode="json") | how_read, seed=0) | {
            "data": {"path": "d", "sha256": KNOWN["data"], **rows},
            "models": models,
            "coresets": coresets,
            "files": {c["path"]: hash_file(folder.path / c["path"]) for c in coresets},
            "stages": [{"name": n, "seconds": COST.get(n, 0.5), **counts} for n in stages],
        }
        write_manifest(folder.manifest, manifest)
        return manifest

    def select(config, **_):
        asked.append(("select", config.method))
        wanted = needs(config.method)
        stages = ["check", "read"] + ["fine-tune small", "score small"] * bool(wanted)
        stages += ["score responses alone"] * ("unconditioned" in wanted)
        stages += ["verify on target"] * ("verify" in wanted)
        if wanted & {"features", "connect"}:
            part = RunFolder(config.folder).scores_small / "part-00000.parquet"
            part.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"features": [1.0]}), part)
        ledger = RunFolder(config.folder).path / LEDGER
        known = json.loads(ledger.read_text()) if ledger.is_file() else {}
        known |= {name: {"seconds": COST[name]} for name in stages if name not in ("check", "read")}
        manifest = leave(config, [*stages, "select", "write"], KNOWN["models"] if wanted else {})
        ledger.write_text(json.dumps(known))
        return manifest

    def reselect(config, **_):
        asked.append(("reselect", config.method))
        earlier = json.loads((RunFolder(config.scores).manifest).read_text())
        how_read = {"prompt_column": "as the shared run"}
        inherited = config.inherit(earlier["config"])
        return leave(inherited, ["read", "select"], KNOWN["models"], how_read)

    monkeypatch.setattr(
        selection, "pipeline", types.SimpleNamespace(select=select, reselect=reselect)
    )
    return asked


@pytest.fixture
def run(calls, config, tmp_path):
    """Choose with some methods; returns what was chosen and which selections that took."""

    def go(*methods, known=KNOWN, **settings):
        del calls[:]
        chosen = choose(
            config(methods=methods, **settings), CompareFolder(tmp_path / "out"), 0, known=known
        )
        assert list(chosen) == list(methods)
        for method, one in chosen.items():
            facts = {"rows_usable": 12, "rejected": 0, "truncated": 0, "duplicates": 3}
            assert one.read == facts
            for keep, file in one.files.items():
                assert file.read_text() == f"{method} 0"
                assert hash_file(file) == one.sha256[keep]
        return chosen, list(calls)

    return go


def test_the_method_that_needs_most_serves_the_others(run):
    _, calls = run("random", "ccs", "staff")
    assert calls == [("select", "staff"), ("reselect", "random"), ("reselect", "ccs")]
    assert run("random", "ccs", "staff")[1] == []


def test_features_and_second_losses_are_put_there_first(run):
    methods = ("staff", "random", "d2", "k-centre", "ifd")
    _, calls = run(*methods)
    assert calls == [
        ("select", "d2"), ("select", "ifd"), ("reselect", "ifd"), ("select", "staff"),
        ("reselect", "random"), ("reselect", "d2"), ("reselect", "k-centre"),
    ]  # fmt: skip
    assert run(*methods)[1] == []
    assert run("random", "d2", keep=(0.25,))[1] == [("select", "d2"), ("reselect", "random")]


def test_a_method_more_takes_only_what_it_needs(run):
    run("random")
    assert run("random", "ccs")[1] == [("select", "ccs"), ("reselect", "random")]
    assert run("random", "ccs", "d2")[1] == [("select", "d2"), ("reselect", "ccs")]
    run("random", "staff", "d2")
    assert run("random", "staff", "d2", "ifd")[1] == [
        ("select", "ifd"), ("reselect", "ifd"), ("select", "staff"),
    ]  # fmt: skip


def other(role, fact):
    """What is known, with another hash or tokenizer of one model."""
    models = KNOWN["models"]
    return {"models": models | {role: models[role] | {fact: "other"}}}


def test_other_models_tokenizers_data_and_files_are_noticed(run, tmp_path):
    methods = ("staff", "random")
    both = [("select", "staff"), ("reselect", "random")]
    run(*methods)
    for known in (other("target", "hash"), other("small", "tokenizer")):
        assert run(*methods, known=KNOWN | known)[1] == both
    run(*methods)
    with pytest.raises(DataError, match="changed while it was read"):  # by then made of others
        run(*methods, known=KNOWN | {"data": "other"})
    run(*methods)
    (tmp_path / "out" / "seed-0" / "random" / "coreset-0.5.jsonl").unlink()
    assert run(*methods)[1] == [("reselect", "random")]
    assert run(*methods, device="cuda", batch_tokens=9)[1] == []


def test_selections_by_other_versions_are_made_again(run, tmp_path):
    both = [("select", "staff"), ("reselect", "random")]
    for key, value in (("staff_version", "0.0"), ("versions", {"numpy": "1.0"})):
        run("staff", "random")
        for folder in ("select", "random"):
            path = tmp_path / "out" / "seed-0" / folder / "manifest.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
        assert run("staff", "random")[1] == both


def test_every_method_pays_for_what_it_needs(run):
    chosen, _ = run("staff", "random", "ccs", "d2", "ifd")
    seconds = {method: one.seconds for method, one in chosen.items()}
    again = 0.5 + COST["select"]  # reading stored scores, choosing
    scored = COST["check"] + 0.5 + COST["fine-tune small"] + COST["score small"]
    assert seconds["random"] == again + 0.5
    assert seconds["ccs"] == seconds["d2"] == again + scored
    assert seconds["ifd"] == again + scored + COST["score responses alone"]
    assert seconds["staff"] == scored + sum(
        COST[k] for k in ("verify on target", "select", "write")
    )


def test_the_small_model_may_be_tuned_in_its_own_way(run, tmp_path):
    run("staff", small_epochs=7, epochs=2, learning_rate=0.5, cut=0.25)
    manifest = json.loads((tmp_path / "out/seed-0/select/manifest.json").read_text())
    made = {k: manifest["config"][k] for k in ("epochs", "learning_rate", "cut", "seed")}
    assert made == {"epochs": 7, "learning_rate": 0.5, "cut": 0.25, "seed": 0}
