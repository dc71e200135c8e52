import numpy as np
import pytest

from staff import pipeline, planning, select_coreset
from staff.cli.story import tell
from staff.data.store import TokenStore
from staff.errors import ConfigError, DataError
from staff.planning.estimate import estimate
from staff.reports.text import render
from staff.runs.config import SelectConfig
from staff.runs.manifest import plain
from staff.runs.plan_config import PlanConfig
from staff.runs.selection_file import read_selection
from staff.scores import interpolate as module
from staff.scores.interpolate import interpolate, token_features
from staff.scores.shards import read_scores
from staff.types import IGNORE, TokenisedExample

ROWS = 160
SETTINGS = {"prompt_column": "mr", "response_column": "ref", "dtype": "float32"}
SETTINGS |= {"skip_finetune": True, "regions": 4, "keep": 0.2}


@pytest.fixture(scope="module", autouse=True)
def narrow():
    """Fewer features: the equations of 1,027 take a second each time."""
    width, module.WIDTH = module.WIDTH, 128
    yield
    module.WIDTH = width


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """600 rows of 5 to 30 tokens, the first 2 the prompt."""
    path = tmp_path_factory.mktemp("store") / "tokens"
    random = np.random.default_rng(0)
    examples = []
    for number in range(600):
        ids = random.integers(0, 40, random.integers(5, 30))
        labels = np.where(np.arange(len(ids)) < 2, IGNORE, ids)
        examples.append(TokenisedExample(str(number), ids, labels))
    with TokenStore.write(path) as writer:
        writer.append(list(range(600)), examples)
    return TokenStore.open(path)


def share_of(store, token):
    """Of each row's response tokens, those that are this one."""
    found = []
    for example in store.get(range(len(store))):
        response = example.input_ids[example.labels != IGNORE]
        found.append((response == token).mean())
    return np.array(found)


def test_a_score_that_hangs_on_tokens_is_told(store):
    scores = np.exp(5 * share_of(store, 7) - share_of(store, 9) - 3)
    scored = np.arange(0, 600, 2)
    found = interpolate(store, scored, scores[scored])
    assert np.array_equal(found.scores[scored], scores[scored])
    others = np.arange(1, 600, 2)
    assert np.corrcoef(np.log(found.scores[others]), np.log(scores[others]))[0, 1] > 0.9
    # They lie where the scored rows' do, not drawn together as a regression draws them.
    assert np.std(np.log(found.scores[others])) > 0.9 * np.std(np.log(scores[scored]))
    assert np.corrcoef(found.observed, found.predicted)[0, 1] > 0.9


def test_noise_is_said_to_be_noise(store):
    scores = np.exp(np.random.default_rng(1).normal(size=600))
    scored = np.arange(0, 600, 2)
    found = interpolate(store, scored, scores[scored])
    assert abs(np.corrcoef(found.observed, found.predicted)[0, 1]) < 0.2


@pytest.mark.parametrize("scores", [np.zeros(60), np.ones(60)])
def test_scores_that_are_all_alike(store, scores):
    found = interpolate(store, np.arange(60), scores)
    assert np.array_equal(found.scores, np.full(600, scores[0]))


def test_a_score_that_is_not_finite_stays_and_teaches_nothing(store):
    scores = np.exp(3 * share_of(store, 7))
    scored = np.arange(300)
    bad = scores[scored].copy()
    bad[[3, 5]] = np.nan
    left_out = np.setdiff1d(scored, [3, 5])
    found = interpolate(store, scored, bad)
    assert np.flatnonzero(np.isnan(found.scores)).tolist() == [3, 5]
    same = interpolate(store, left_out, scores[left_out])
    assert np.array_equal(found.observed, same.observed)
    assert np.array_equal(found.predicted, same.predicted)


def test_blocks_change_nothing(store, monkeypatch):
    scores = np.exp(3 * share_of(store, 7))
    scored = np.arange(0, 600, 3)
    whole = interpolate(store, scored, scores[scored]).scores
    monkeypatch.setattr(module, "BLOCK", 64)
    np.testing.assert_allclose(interpolate(store, scored, scores[scored]).scores, whole, rtol=1e-6)


def test_the_order_of_the_input_does_not_matter(store, tmp_path):
    """But for rounding; equal rows are told the same."""
    scores = np.exp(np.random.default_rng(1).normal(size=600))
    scored = np.arange(0, 600, 2)
    found = interpolate(store, scored, scores[scored])
    order = np.random.default_rng(2).permutation(600)
    with TokenStore.write(tmp_path / "tokens") as writer:
        writer.append(list(range(600)), [store.get([i])[0] for i in order])
    moved = np.flatnonzero(order % 2 == 0)
    again = interpolate(TokenStore.open(tmp_path / "tokens"), moved, scores[order[moved]])
    np.testing.assert_allclose(again.scores, found.scores[order], rtol=1e-6)
    by_row = dict(zip(order[moved].tolist(), again.predicted.tolist(), strict=True))
    np.testing.assert_allclose([by_row[i] for i in scored.tolist()], found.predicted, rtol=1e-6)


def test_too_few_rows(store):
    with pytest.raises(DataError, match=r"49 scored rows are too few .* raise --score-on"):
        interpolate(store, np.arange(49), np.ones(49))


def test_features_by_hand(tmp_path):
    example = TokenisedExample("a", np.array([4, 4, 9]), np.array([IGNORE, 4, 9]))
    with TokenStore.write(tmp_path / "t") as writer:
        writer.append([0], [example])
    found = token_features(TokenStore.open(tmp_path / "t"), np.array([0]))[0]
    prompt, response = found[: module.WIDTH], found[module.WIDTH : 2 * module.WIDTH]
    # One token: ±1 in its place. Two: ±1/√2 each, the first where the prompt has it.
    assert np.abs(prompt).sum() == 1
    assert np.abs(response).sum() == pytest.approx(np.sqrt(2))
    assert response[np.abs(prompt).argmax()] == pytest.approx(prompt.sum() / np.sqrt(2))
    assert found[-3:] == pytest.approx([np.log(2), np.log(3), 1], rel=1e-15)


@pytest.fixture(scope="module")
def data(e2e_file):
    return e2e_file(ROWS)


@pytest.fixture(scope="module")
def run(data, family, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "part"
    return select_coreset(
        data, small=family[0], target=family[1], score_on=0.5, out=out, **SETTINGS
    )


def chosen(run):
    return read_selection(run.folder / "selection.parquet")["selected@0.2"]


def test_a_selection_scores_a_part(run, data, family, tmp_path):
    scored = read_scores(run.folder / "scores" / "small")
    table = read_selection(run.folder / "selection.parquet")
    assert len(scored.ids) == ROWS // 2
    own = ~table["interpolated"]
    assert sorted(table["id"][own]) == sorted(scored.ids)
    assert np.array_equal(table["score_small"][own], scored.columns["effort"])
    assert np.isfinite(table["score_small"]).all()
    assert len(set(table["score_small"])) > ROWS // 2
    assert run.manifest["interpolation"]["rows_scored"] == ROWS // 2
    stage = next(s for s in run.manifest["stages"] if s["name"] == "score small")
    assert stage["rows"] == ROWS // 2
    assert chosen(run).sum() == ROWS // 5
    again = select_coreset(
        data, small=family[0], target=family[1], score_on=0.5, out=tmp_path / "x", **SETTINGS
    )
    assert np.array_equal(chosen(again), chosen(run))


def test_it_is_told(run):
    text = render(run.manifest, folder=str(run.folder))
    assert "80 rows scored, the other scores predicted from them" in " ".join(text.split())
    assert "predicted from them" in (run.folder / "report.html").read_text()
    table = read_selection(run.folder / "selection.parquet")
    told, own = table["row"][table["interpolated"]][0], table["row"][~table["interpolated"]][0]
    assert "interpolated score" in " ".join(tell(run.folder, id=None, row=int(told)).split())
    assert "interpolated" not in tell(run.folder, id=None, row=int(own))


def test_selecting_again_keeps_what_was_told(run, tmp_path):
    again = select_coreset(scores=run.folder, keep=0.2, regions=4, out=tmp_path / "again")
    assert np.array_equal(chosen(again), chosen(run))
    tables = [read_selection(r.folder / "selection.parquet") for r in (run, again)]
    assert np.array_equal(tables[0]["interpolated"], tables[1]["interpolated"])
    facts = [plain(r.manifest["interpolation"]) for r in (run, again)]
    assert facts[0] == facts[1]
    assert "predicted from them" in (again.folder / "report.html").read_text()


def test_the_plan_counts_the_part(data, family, tmp_path):
    models = {"small": str(family[0]), "target": str(family[1]), "data": str(data)}
    settings = {**SETTINGS, "score_on": 0.5, "out": str(tmp_path / "x")}
    stages = planning.plan(SelectConfig(**models, **settings))["stages"]
    assert next(s for s in stages if s["name"] == "score small")["rows"] == ROWS // 2
    plan = estimate(PlanConfig(**models, **settings, device="l40s"))
    whole = estimate(PlanConfig(**models, **{**settings, "score_on": 1.0}, device="l40s"))
    flops = [
        next(s for s in p["stages"] if s["kind"] == "score small")["flops"] for p in (plan, whole)
    ]
    assert 0.4 < flops[0] / flops[1] < 0.6


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"method": "ccs"}, "--method ccs needs the small model"),
        ({"within": "spread"}, "--within spread needs the small model"),
        ({"features": True}, "--features needs the small model"),
    ],
)
def test_what_needs_every_row_is_refused(wish, words):
    with pytest.raises(ConfigError, match=words):
        SelectConfig(data="d", small="s", target="t", out="o", keep=0.1, score_on=0.5, **wish)


def test_too_few_rows_to_tell_from(data, family, tmp_path):
    with pytest.raises(DataError, match="16 scored rows are too few"):
        pipeline.select(
            SelectConfig(
                data=str(data),
                small=str(family[0]),
                target=str(family[1]),
                score_on=0.1,
                out=str(tmp_path / "x"),
                **SETTINGS,
            )
        )
    assert not (tmp_path / "x").exists()  # told before anything is tuned or scored
