"""Every method through the pipeline: only what it needs is computed, and the files agree."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from staff import planning, select_coreset
from staff.asked import requested_sizes
from staff.cli.story import tell
from staff.errors import ConfigError, DataError, RunError
from staff.methods import Inputs, prepare, score_column
from staff.models import load
from staff.reports.text import render
from staff.runs.config import SelectConfig
from staff.runs.facts import from_cut
from staff.runs.settings import Method
from staff.scores.shards import read_features, read_scores
from staff.selectors import (
    SCORE,
    SELECTORS,
    explain,
    select_d2,
    select_k_centre,
    select_ranked,
    select_staff,
)
from staff.selectors.compose import Wishes, choose_one
from staff.types import REASONS

COLUMNS = {"prompt_column": "mr", "response_column": "ref"}
SETTINGS = {**COLUMNS, "skip_finetune": True, "dtype": "float32", "regions": 6}
ROWS = 80
FROM_SCORES = sorted(set(SELECTORS) - {"staff", "ifd"})


@pytest.fixture(scope="module")
def data(tmp_path_factory, e2e_rows):
    """Rows with a source column: two thirds a, one third b, some without."""
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    rows = [json.loads(line) for line in e2e_rows[:ROWS]]
    for n, row in enumerate(rows):
        if n % 10:
            row["part"] = "b" if n % 3 == 2 else "a"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def loaded():
    """Paths of the models whose weights were loaded."""
    paths: list[str] = []
    original = load.load_model
    load.load_model = lambda path, **settings: paths.append(path) or original(path, **settings)
    yield paths
    load.load_model = original


@pytest.fixture(scope="module")
def run(tmp_path_factory, data, family, loaded):
    """D2 on the small model: features, and no target's weights."""
    out = tmp_path_factory.mktemp("runs") / "d2"
    return select_coreset(
        data, small=family[0], target=family[1], method="d2", keep=(0.1, 0.5), out=out, **SETTINGS
    )


@pytest.fixture(scope="module")
def ids(run):
    return run.table()["id"]


def test_the_names_are_those_of_the_selectors():
    assert set(Method.__args__) == set(SELECTORS)


def test_d2_needs_no_weights_of_the_target(run, loaded, family):
    assert family[1] not in loaded
    stages = [s["name"] for s in run.manifest["stages"]]
    assert stages == ["check", "read", "score small", "select", "write"]
    assert "regions" not in run.manifest
    assert not (run.folder / "scores" / "target").exists()
    table = run.table()
    assert np.isnan(table["score_target"]).all()
    assert (table["reason@0.5"] == "cut").sum() == ROWS // 10  # the mislabel ratio


def test_d2_is_the_selector_on_the_stored_columns(run):
    from staff.rng import keys_of_ids
    from staff.scores.neighbours import nearest

    table, folder = run.table(), run.folder / "scores" / "small"
    features = read_features(folder)
    again = select_d2(
        scores=read_scores(folder).columns["effort"],
        connect=lambda rows: nearest(features[rows], 10),
        total=40,
        keys=keys_of_ids(table["id"], 0),
    )
    assert np.flatnonzero(table["selected@0.5"]).tolist() == again.rows.tolist()


@pytest.mark.parametrize("method", FROM_SCORES)
def test_every_method_selects_again_from_stored_scores(run, method, tmp_path, loaded):
    before = list(loaded)
    again = select_coreset(scores=run.folder, method=method, keep=0.2, total=5, out=tmp_path / "o")
    assert loaded == before
    table, manifest = again.table(), again.manifest
    for name, total in (("0.2", 16), ("n5", 5)):
        assert table[f"selected@{name}"].sum() == total
        assert len(again.coresets[name].read_text().splitlines()) == total
        chosen = np.isin(table[f"reason@{name}"], ["budget", "top-up"])
        assert np.array_equal(chosen, table[f"selected@{name}"])
        coreset = next(c for c in manifest["coresets"] if c["name"] == name)
        assert coreset["tokens"] == table["tokens"][table[f"selected@{name}"]].sum()
    assert ("regions" in manifest) == (method == "ccs")
    assert f"Method    {method}" in render(manifest, folder="x")
    column = SCORE.get(method, "").replace("effort", "score_small")
    name, shown = scores_on((again.folder / "report.html").read_text(encoding="utf-8"))
    assert (name is not None) == ("score" in manifest) == bool(column)
    if column:
        assert len(shown) == 80
        assert list(shown.values()) == pytest.approx(table[column][list(shown)], rel=0.005)
        spread = manifest["score"]["chosen"]["n5"]
        assert spread["median"] == np.median(table[column][table["selected@n5"]])
    for row in (0, int(np.flatnonzero(table["selected@n5"])[0])):
        told = tell(again.folder, id=None, row=row)
        assert ("is in the coreset of 5" in " ".join(told.split())) == table["selected@n5"][row]
        assert "nan" not in told


def scores_on(page):
    """Row -> the score that the table of a page has for it, and what it is called there."""
    found = re.findall(
        r'<th scope="row"><span class="label">Row </span>(\d+)</th>\s*(?:<td><span class="label">Region.*</td>\s*)?'
        r'<td><span class="label">([^<]+) </span>([^<]+)',
        page,
    )  # fmt: skip
    [name] = {name for _, name, _ in found} or {None}
    return name, {int(row): float(score.replace(",", "")) for row, _, score in found}


def test_a_report_of_regions_by_loss_shows_losses(run, tmp_path):
    again = select_coreset(
        scores=run.folder, method="ccs", difficulty="loss", keep=0.2, out=tmp_path / "o"
    )
    page = (again.folder / "report.html").read_text(encoding="utf-8")
    assert "loss on the small model" in page
    assert "effort score on the small model" not in page
    losses = again.table()["loss"]
    name, shown = scores_on(page)
    assert name == "Loss"
    assert len(shown) == page.count("<tr data-region=") > 0
    assert list(shown.values()) == pytest.approx(losses[list(shown)], rel=0.005)


def test_a_run_with_the_models_gives_what_the_stored_scores_give(data, family, run, tmp_path):
    direct = select_coreset(
        data, small=family[0], method="el2n", keep=0.1, out=tmp_path / "a", **SETTINGS
    )
    again = select_coreset(scores=run.folder, method="el2n", keep=0.1, out=tmp_path / "b")
    assert direct.coresets["0.1"].read_bytes() == again.coresets["0.1"].read_bytes()
    table = direct.table()
    best = select_ranked(scores=table["el2n"], total=8)
    assert np.flatnonzero(table["selected@0.1"]).tolist() == best.rows.tolist()
    assert list(direct.manifest["models"]) == ["small"]


def test_ifd_adds_one_pass_to_the_same_folder(data, family, tmp_path):
    settings = {"small": family[0], "out": tmp_path / "x", **SETTINGS}
    select_coreset(data, method="loss", keep=0.1, **settings)
    with pytest.raises(RunError, match=r"has no losses of responses alone: .* method loss"):
        select_coreset(scores=tmp_path / "x", method="ifd", keep=0.1, out=tmp_path / "no")
    run = select_coreset(data, method="ifd", keep=0.1, **settings)
    assert {s["name"]: s["reused"] for s in run.manifest["stages"]} == {
        "check": False, "read": False, "score small": True, "score responses alone": False,
        "select": False, "write": False,
    }  # fmt: skip
    table = run.table()
    ratio = table["loss"] / table["unconditioned_loss"]
    assert ((ratio > 1) == (table["reason@0.1"] == "cut")).all()
    # These models know the form of E2E: a meaning representation helps to say its sentence.
    assert np.median(ratio) < 1
    chosen = table["selected@0.1"]
    assert ratio[chosen].min() >= ratio[~chosen & (ratio <= 1)].max()
    assert "IFD ratio is" in tell(run.folder, id=None, row=int(np.flatnonzero(chosen)[0]))
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    name, shown = scores_on(page)
    assert name == "IFD ratio"
    assert list(shown.values()) == pytest.approx(ratio[list(shown)], rel=0.005)
    assert 'aria-label="IFD ratio: all rows and coreset 0.1' in page
    assert "cut, left out because its prompt makes its response less likely" in page
    again = select_coreset(scores=run.folder, method="ifd", keep=0.1, out=tmp_path / "again")
    assert again.coresets["0.1"].read_bytes() == run.coresets["0.1"].read_bytes()


def test_what_is_missing_is_said(data, family, run, tmp_path):
    plain = select_coreset(
        data, small=family[0], method="grand", keep=0.1, out=tmp_path / "x", **SETTINGS
    )
    for method, what in (("k-centre", "features"), ("staff", "scores of the target")):
        with pytest.raises(RunError, match=f"has no {what}: .*by the method") as caught:
            select_coreset(scores=plain.folder, method=method, keep=0.1, out=tmp_path / "no")
        assert f"--config {plain.folder}/config.yaml --method {method}" in str(caught.value)
    # One that selected again has its features where the scoring run left them.
    again = select_coreset(scores=run.folder, method="random", keep=0.1, out=tmp_path / "again")
    third = select_coreset(scores=again.folder, method="k-centre", keep=0.1, out=tmp_path / "3")
    features = read_features(run.folder / "scores" / "small")
    assert third.table()["selected@0.1"].sum() == 8
    assert len(select_k_centre(features=features, total=8).rows) == 8


def test_features_stay_where_they_are(data, family, run, tmp_path):
    settings = {"small": family[0], "out": tmp_path / "x", "keep": 0.1, **SETTINGS}
    select_coreset(data, method="moderate", **settings)
    again = select_coreset(data, method="grand", **settings)
    assert [s["name"] for s in again.manifest["stages"] if s["reused"]] == ["score small"]
    assert len(read_features(tmp_path / "x" / "scores" / "small")) == ROWS


def test_sizes_in_tokens(run, tmp_path, data, family):
    again = select_coreset(
        scores=run.folder, method="ccs", keep=0.3, keep_of="tokens", tokens=[500, 2000],
        out=tmp_path / "x",
    )  # fmt: skip
    table = again.table()
    for name, tokens in (("0.3", int(0.3 * table["tokens"].sum())), ("t500", 500), ("t2000", 2000)):
        used = table["tokens"][table[f"selected@{name}"]].sum()
        assert tokens - table["tokens"].max() < used <= tokens
    random = select_coreset(
        data, target=family[1], method="random", tokens=700, out=tmp_path / "r", **COLUMNS
    )
    assert random.table()["tokens"].tolist() == table["tokens"].tolist()
    assert random.manifest["coresets"][0]["tokens"] <= 700
    with pytest.raises(ConfigError, match="sizes in tokens need a tokenizer"):
        select_coreset(data, method="random", tokens=700, out=tmp_path / "no", **COLUMNS)
    with pytest.raises(ConfigError, match="3 tokens are too few"):
        select_coreset(scores=run.folder, method="ccs", tokens=3, out=tmp_path / "no2")


@pytest.mark.parametrize("method", ["ccs", "d2", "random"])
def test_lists_quotas_nesting_and_stability_together(run, ids, method, tmp_path):
    never, always = tmp_path / "never.txt", tmp_path / "always.txt"
    never.write_text("".join(f"{i}\n" for i in ids[:10]) + "not-here\n")
    always.write_text("".join(f"{i}\n" for i in ids[20:23]))
    again = select_coreset(
        scores=run.folder, method=method, total=(12, 40), quota_column="part", nested=True,
        include=str(always), exclude=str(never), stability=3, out=tmp_path / "x",
    )  # fmt: skip
    table, manifest = again.table(), again.manifest
    small, large = table["selected@n12"], table["selected@n40"]
    assert (small.sum(), large.sum()) == (12, 40)
    assert not (small & ~large).any()
    assert small[20:23].all()
    assert not large[:10].any()
    assert set(table["reason@n12"][:10]) == {"excluded"}
    assert set(table["reason@n12"][20:23]) == {"included"}
    assert manifest["exclude"]["rows"] == 10
    assert manifest["exclude"]["unknown"] == 1
    assert manifest["include"]["rows"] == manifest["coresets"][0]["included"] == 3
    part = np.array(["" if n % 10 == 0 else "b" if n % 3 == 2 else "a" for n in range(ROWS)])
    assert manifest["quotas"]["rows"] == {v: int((part == v).sum()) for v in ("", "a", "b")}
    free = np.ones(ROWS, bool)
    free[:10] = free[20:23] = False
    share = {v: (part[free] == v).mean() for v in ("", "a", "b")}
    for name, left in (("n12", 9), ("n40", 37)):
        chosen = table[f"selected@{name}"] & free
        for value, expected in share.items():
            assert abs((part[chosen] == value).sum() - expected * left) < 1
        assert manifest["stability"][name]["seeds"] == 3
        assert (manifest["stability"][name]["jaccard"] < 1) == (method != "d2")  # it draws nothing
    text = " ".join(render(manifest, folder="x", width=200).split())
    page = (again.folder / "report.html").read_text(encoding="utf-8")
    for name in ("n12", "n40"):
        chosen = manifest["quotas"]["chosen"][name]
        assert chosen == {v: (part[table[f"selected@{name}"]] == v).sum() for v in ("", "a", "b")}
        assert f"by part: a {chosen['a']} of {manifest['quotas']['rows']['a']}, b " in text
        assert f"coreset {name}, by part: a {chosen['a']} of " in page
    for words in ("nested", "3 rows to include", "10 rows to exclude", "quotas by part (3 values)"):
        assert words in text
        assert words in page
    assert "agreement over 3 seeds: Jaccard index" in text
    assert "Scored on the target" not in page
    assert "The target scored" not in text
    if method == "ccs":
        assert set(table["reason@n12"][np.asarray(table["region"], float) == -1]) == {"cut"}
        assert np.isnan(np.asarray(table["region"], float)[~free]).all()
        assert manifest["cut"]["rows"] == 6  # a tenth of the 67 rows there is a choice of
    for row in (0, 20, 30):
        told = " ".join(tell(again.folder, id=None, row=row).split())
        assert ("list of rows to exclude" in told) == (row == 0)
        assert ("list of rows to include" in told) == (row == 20)


def test_staff_with_quotas_verifies_once(data, family, tmp_path, ids):
    run = select_coreset(
        data, small=family[0], target=family[1], total=(9, 30), quota_column="part", out=tmp_path / "x",
        verify_per_region=2, nested=True, **SETTINGS,
    )  # fmt: skip
    assert 0 < run.manifest["target_rows_scored"] <= 6 * 2
    table = run.table()
    for coreset in run.manifest["coresets"]:
        budgets = sum(region["budgets"][coreset["name"]] for region in run.manifest["regions"])
        assert budgets + coreset["top_up"] == coreset["total"]
    assert not (table["selected@n9"] & ~table["selected@n30"]).any()
    for row in range(0, ROWS, 9):
        told = tell(run.folder, id=None, row=row)
        assert "nan" not in told


def test_a_story_with_quotas_is_of_the_values_own_places():
    # The ten highest scores are cut, and all of them have the value of the last 20 rows.
    scores, group = np.linspace(1, 10, 100), np.arange(100) // 80
    keys = np.arange(100, dtype=np.uint64)
    inputs = Inputs(keys, {"effort": scores})
    config = SelectConfig(data="x", small="s", out="o", keep=(0.8,), method="ccs", regions=4)
    method = prepare(config, inputs, free=np.ones(100, bool))

    def told(total, row):
        made = choose_one(method.choose, total, Wishes(100, group=group), seed=0)
        made = method.complete(replace(made, details=made.details | {"quota_column": "'kind'"}))
        return explain(row, scores=scores, selection=made, keys=keys), made

    # 16 places for 10 rows below the cut and the 6 lowest above it; 64 for 80 rows.
    for row in (90, 95):
        words, made = told(80, row)
        assert "all other rows with its value of 'kind' were taken and did not fill" in words[-1]
    assert from_cut(made) == 6
    left = np.flatnonzero(made.reason == REASONS.index("over-budget"))
    drawn = made.budget.top_up - 6
    assert ("drawn at random" in told(80, int(left[0]))[0][-1]) == (drawn > 0)
    # 19 and 76 places: more than are below the cut, and yet 4 rows of the first value stay.
    words, made = told(95, int(np.flatnonzero(group == 0)[0]))
    assert from_cut(made) == 9
    assert not any("larger than the pool" in sentence for sentence in words)


def test_staff_spread_over_clusters_with_shrunk_ratios(data, family, tmp_path):
    from staff.rng import keys_of_ids
    from staff.scores.neighbours import clusters

    wanted = {"within": "spread", "clusters": 5, "allocation": "shrunk", "verify_per_region": 4}
    run = select_coreset(
        data, small=family[0], target=family[1], keep=0.3, out=tmp_path / "x", **wanted, **SETTINGS
    )
    table = run.table()
    target = table["score_target"]
    keys, features = keys_of_ids(table["id"], 0), read_features(run.folder / "scores" / "small")
    groups, by_key = np.empty(ROWS, int), np.argsort(keys)  # so that the input's order is nothing
    groups[by_key] = clusters(features[by_key], 5, seed=0)
    coreset = select_staff(
        scores=table["score_small"], total=24, verify=lambda rows: target[rows], keys=keys,
        groups=groups, within="spread", allocation="shrunk",
        verify_per_region=4, regions=6,
    )  # fmt: skip
    assert np.flatnonzero(table["selected@0.3"]).tolist() == coreset.rows.tolist()
    told = " ".join(tell(run.folder, id=None, row=int(coreset.rows[0])).split())
    assert "random rows were drawn from each cluster" in told

    again = select_coreset(scores=run.folder, keep=0.3, out=tmp_path / "again")
    assert again.coresets["0.3"].read_bytes() == run.coresets["0.3"].read_bytes()
    plain = select_coreset(scores=run.folder, keep=0.3, within="random", out=tmp_path / "plain")
    assert plain.coresets["0.3"].read_bytes() != run.coresets["0.3"].read_bytes()


def test_staff_verified_against_the_untuned_small_model(data, family, tmp_path):
    settings = {**SETTINGS, "skip_finetune": False, "epochs": 1, "learning_rate": 0.01}
    settings |= {"small": family[0], "target": family[1], "verify_per_region": 4, "keep": 0.3}
    run = select_coreset(data, out=tmp_path / "x", verify_against="untuned", **settings)
    table, manifest = run.table(), run.manifest
    assert [s["name"] for s in manifest["stages"]][4:6] == [
        "verify on target",
        "score small untuned",
    ]
    assert np.array_equal(~np.isnan(table["score_untuned"]), table["verified"])
    bare = select_coreset(
        data, out=tmp_path / "bare", method="grand", **settings | {"skip_finetune": True}
    ).table()["score_small"]
    at = table["verified"]
    np.testing.assert_allclose(table["score_untuned"][at], bare[at], rtol=1e-5)
    assert not np.allclose(table["score_small"][at], bare[at], rtol=0.01)
    for number, region in enumerate(manifest["regions"]):
        here = at & (np.asarray(table["region"]) == number)
        if here.any():
            sums = table["score_target"][here].sum() / table["score_untuned"][here].sum()
            assert region["ratio"] == pytest.approx(sums)
    row = int(np.flatnonzero(at)[0])
    assert "times the small model's before fine-tuning" in " ".join(
        tell(run.folder, id=None, row=row).split()
    )

    again = select_coreset(scores=run.folder, keep=0.3, out=tmp_path / "again")
    assert again.coresets["0.3"].read_bytes() == run.coresets["0.3"].read_bytes()
    paper = select_coreset(
        scores=run.folder, keep=0.3, verify_against="tuned", out=tmp_path / "paper"
    )
    ratios = [[r["ratio"] for r in m["regions"]] for m in (paper.manifest, manifest)]
    assert ratios[0] != ratios[1]
    with pytest.raises(
        RunError, match=r"(?s)no scores of the small model before .*against untuned"
    ):
        select_coreset(scores=paper.folder, keep=0.3, verify_against="untuned", out=tmp_path / "no")
    # Without fine-tuning there is one small model only.
    bare = select_coreset(
        data, out=tmp_path / "one", verify_against="untuned", **settings | {"skip_finetune": True}
    )
    assert "score_untuned" not in bare.table()
    assert "score small untuned" not in [s["name"] for s in bare.manifest["stages"]]
    again = select_coreset(scores=bare.folder, keep=(0.3, 0.95), out=tmp_path / "one-again")
    assert again.coresets["0.3"].read_bytes() == bare.coresets["0.3"].read_bytes()
    # Of 80 rows 8 are cut, and 4 of those fill up a coreset of 76: not at random.
    full = again.manifest["coresets"][1]
    assert (full["top_up"], full["from_cut"]) == (4, 4)
    assert "76 rows (95 %)" in (text := render(again.manifest, folder="x", width=200))
    assert "4 of them cut rows, to fill it up" in text
    assert "at random" not in text
    assert "drawn at random (top-up)" not in (again.folder / "report.html").read_text(
        encoding="utf-8"
    )


def test_spread_needs_features_that_are_there(data, family, tmp_path):
    plain = select_coreset(
        data, small=family[0], target=family[1], keep=0.3, out=tmp_path / "x", **SETTINGS
    )
    with pytest.raises(RunError, match=r"(?s)no features: .*--method staff --within spread"):
        select_coreset(scores=plain.folder, keep=0.3, within="spread", out=tmp_path / "no")


def test_fine_tuning_on_a_part_of_the_rows(data, family, tmp_path):
    settings = {**SETTINGS, "skip_finetune": False, "epochs": 1, "finetune_on": 0.25}
    settings |= {"small": family[0], "method": "grand", "keep": 0.1}
    config = SelectConfig(data=str(data), out=str(tmp_path / "x"), **settings)
    planned = planning.plan(config)["stages"][1]
    run = select_coreset(data, out=tmp_path / "x", **settings)
    done = next(s for s in run.manifest["stages"] if s["name"] == "fine-tune small")
    assert done["rows"] == planned["rows"] == ROWS // 4
    assert 0 < done["tokens"] < 0.4 * run.table()["tokens"].sum()
    assert len(read_scores(run.folder / "scores" / "small").ids) == ROWS  # all are scored
    with pytest.raises(RunError, match=r"finetune.on"):
        select_coreset(data, out=tmp_path / "x", **{**settings, "finetune_on": 0.5})


@pytest.mark.parametrize(
    ("wish", "error", "words"),
    [
        ({"include": "not-here\n"}, ConfigError, "no usable row has the id 'not-here'"),
        ({"include": "{0}\n", "exclude": "{0}\n"}, ConfigError, "in both include and exclude"),
        ({"include": "{0}\n{0}\n"}, DataError, "is in line 1 and line 2"),
        ({"quota_column": "prt"}, DataError, "has no column 'prt' for quotas; it has: mr, part, ref"),
    ],
)  # fmt: skip
def test_wishes_that_cannot_be(run, ids, tmp_path, wish, error, words):
    given = dict(wish)
    for name in {"include", "exclude"} & wish.keys():
        given[name] = str(tmp_path / name)
        (tmp_path / name).write_text(wish[name].format(ids[0]))
    with pytest.raises(error, match=words):
        select_coreset(scores=run.folder, method="random", keep=0.1, out=tmp_path / "x", **given)


def test_a_plan_lists_only_what_a_method_needs(data, family, tmp_path):
    def plan(method):
        config = SelectConfig(
            data=str(data), small=family[0], target=family[1], method=method, keep=(0.1,),
            out=str(tmp_path / "p"), **{**SETTINGS, "skip_finetune": False},
        )  # fmt: skip
        return [stage["name"] for stage in planning.plan(config)["stages"]]

    tuned = ["read", "fine-tune small, 3 epochs", "score small"]
    assert plan("random") == ["read", "select"]
    assert plan("ccs") == [*tuned, "select"]
    assert plan("ifd") == [*tuned, "score responses alone", "select"]
    assert plan("staff") == [*tuned, "verify on target, at most", "select"]


def test_the_column_a_method_goes_by():
    def column(**settings):
        return score_column(SelectConfig(scores="x", keep=0.1, **settings))

    assert column(method="ccs") == "effort"
    assert column(method="ccs", difficulty="el2n") == "el2n"
    assert column(method="staff", difficulty="el2n") == "effort"
    assert column(method="length") == "response_length"
    assert column(method="k-centre") is None


def test_reasons_have_their_places():
    assert REASONS[:4] == ("over-budget", "budget", "top-up", "cut")
    assert requested_sizes(SelectConfig(scores="x", tokens=5), 10) == {}
    few = SelectConfig(scores="x", keep=0.01, keep_of="tokens")
    with pytest.raises(ConfigError, match=r"keep 0.01 of 7 tokens is less than one token"):
        requested_sizes(few, 2, np.array([3, 4]))


def test_regions_are_as_many_as_suit_the_rows_there_are_a_choice_of():
    scores = np.linspace(1, 2, 300)
    inputs = Inputs(np.arange(300), {"effort": scores}, verify=lambda rows: scores[rows])

    def count(rows=300, **settings):
        config = SelectConfig(scores="x", keep=0.1, **settings)
        return prepare(config, inputs, free=np.arange(300) < rows).regions.count

    assert count() == 13  # 270 below the cut: 20 each, twice what is not verified
    assert count(cut=0.5) == 7
    assert count(verify_per_region="auto") == count(verify_per_region=50) == 13
    assert count(rows=100) == 4
    assert count(rows=5) == 2
    assert count(rows=5, cut=0.9) == 1  # one row
    assert count(regions=50) == 50
    assert count(method="ccs") == 50  # which asks nothing of the target
