"""A finished run made without a model, and a pipeline that only takes notes."""

import json
import types

import numpy as np
import pytest

import staff
from staff.rng import keys_of_ids
from staff.runs.facts import cut_facts
from staff.runs.manifest import begin, write_manifest
from staff.runs.selection_file import write_selection
from staff.runs.store import RunFolder
from staff.selectors import select_random, select_staff

N = 300
SEED = 3


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": f"p{i}", "response": f"r{i}"}) + "\n" for i in range(N))
    )
    return path


@pytest.fixture
def command(data, tmp_path):
    """A `staff select` of these rows that needs no model."""
    out = str(tmp_path / "x")
    return ["select", str(data), "--method", "random", "--keep", "0.1", "--out", out]


@pytest.fixture
def finished(tmp_path):
    """(run folder, selections by coreset name, scores, ids) of a run over N rows; row 7 was bad."""
    rng = np.random.default_rng(0)
    scores, ids = rng.gamma(2.0, size=N), [f"id-{i}" for i in range(N)]
    target = scores * rng.uniform(1, 3, size=N)
    chosen = select_staff(
        scores=scores, total=[30, 90], verify=lambda rows: target[rows],
        keys=keys_of_ids(ids, SEED), seed=SEED, regions=12, verify_per_region=5,
    )  # fmt: skip
    selections = dict(zip(("0.1", "0.3"), chosen, strict=True))
    first = chosen[0]
    verified = np.zeros(N, bool)
    verified[first.verification.rows] = True
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.config.write_text("keep: [0.1, 0.3]\n")
    folder.rejected.write_text(
        json.dumps({"row": 7, "line": 8, "reason": "response is empty", "record": {}}) + "\n"
    )
    write_selection(
        folder.selection,
        ids=ids,
        rows=np.arange(N) + (np.arange(N) >= 7),
        scores={"effort": scores, "response_length": np.full(N, 3.0)},
        selections=selections,
        score_target=np.where(verified, target, np.nan),
        regions=first.regions.of_row,
        verified=verified,
    )
    manifest = begin("select", {"method": "staff", "within": "hardest", "regions": 12}, seed=SEED)
    manifest |= {
        "data": {"path": "train.jsonl", "format": "text", "rows_read": N + 1, "rows_usable": N, "rejected": 1,
                 "sha256": "0"},
        "models": {}, "device": None, "stages": [], "target_rows_scored": int(verified.sum()),
        "cut": cut_facts(first, scores, 0.1),
        "regions": [
            {"lower": low, "upper": high, "size": size, "verified": count, "ratio": ratio,
             "interval": interval, "flagged": flagged,
             "budgets": {name: s.budget.count[i] for name, s in selections.items()}}
            for i, ((low, high), size, count, ratio, interval, flagged) in enumerate(zip(
                first.regions.edges, first.regions.sizes, first.verification.count,
                first.verification.ratio, first.verification.interval, first.verification.flagged,
                strict=True))
        ],
        "coresets": [
            {"name": name, "keep": float(name), "total": s.budget.total, "top_up": s.budget.top_up,
             "path": f"coreset-{name}.jsonl"}
            for name, s in selections.items()
        ],
        "files": {},
    }  # fmt: skip
    write_manifest(folder.manifest, manifest)
    return folder.path, selections, scores, ids


@pytest.fixture
def random_run(tmp_path):
    """A finished run of the method random: no scores, no regions."""
    ids = [f"id-{i}" for i in range(20)]
    selection = select_random(keys=keys_of_ids(ids), total=4, seed=0)
    folder = RunFolder(tmp_path / "random")
    folder.path.mkdir()
    write_selection(
        folder.selection, ids=ids, rows=np.arange(20), scores={}, selections={"n4": selection}
    )
    manifest = begin("select", {"method": "random"}, seed=0)
    manifest |= {
        "data": {"path": "d", "format": "text", "rows_read": 20, "rows_usable": 20, "sha256": "0"},
        "coresets": [{"name": "n4", "total": 4, "top_up": 0, "path": "coreset-n4.jsonl"}],
    }
    write_manifest(folder.manifest, manifest)
    return folder.path, selection


class Notes(types.SimpleNamespace):
    """A stand-in for `staff.pipeline`: remembers the calls, answers with `answer`."""

    def __getattr__(self, name):
        def call(config, **said):
            self.calls.append((name, config, said))
            if isinstance(self.answer, BaseException):
                raise self.answer
            return self.answer

        return call


@pytest.fixture
def pipeline(monkeypatch):
    """Replaces what the verbs call: these tests are about the command line only."""
    notes = Notes(calls=[], answer={"format": 1, "command": "select", "coresets": []})
    for module in ("pipeline", "single", "planning"):
        monkeypatch.setattr(staff, module, notes, raising=False)
    return notes
