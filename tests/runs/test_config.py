import pytest
from pydantic import ValidationError

from staff.errors import ConfigError
from staff.runs.config import (
    FREE,
    RESELECT,
    SCORE_KEYS,
    EvaluateConfig,
    FinetuneConfig,
    ScoreConfig,
    SelectConfig,
)
from staff.runs.settings import coreset_name

BASE = {"data": "train.jsonl", "small": "S", "target": "T", "out": "runs/x", "keep": (0.1,)}


def test_defaults_are_the_released_preset():
    config = SelectConfig(**BASE)
    assert (config.allocation, config.within, config.cut) == ("shares", "hardest", 0.1)
    assert (config.regions, config.verify_per_region, config.phi) == ("auto", 10, "last-value")


def test_preset_fills_what_was_not_given():
    config = SelectConfig(**BASE, preset="paper", cut=0.05)
    assert (config.allocation, config.within, config.cut) == ("paper", "random", 0.05)


def test_one_value_stands_for_a_list():
    assert SelectConfig(**{**BASE, "keep": 0.2, "total": 40}).coreset_names == ["0.2", "n40"]


def test_none_means_not_given():
    assert SelectConfig(**BASE, cut=None, preset="paper").cut == 0.0


@pytest.mark.parametrize("name", ["out", "small", "data"])
@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_place_is_not_one_that_was_not_given(name, empty):
    with pytest.raises(ValidationError, match="must not be empty"):
        SelectConfig(**{**BASE, name: empty})


@pytest.mark.parametrize(
    ("keep", "name"),
    [(0.1, "0.1"), (1, "1"), (1e-5, "0.00001"), (1 / 3, "0.3333333333333333")],
)
def test_coreset_names_are_plain_decimals(keep, name):
    assert coreset_name(keep) == name


@pytest.mark.parametrize("keep", [0, -0.1, 1.01, 10, float("nan"), float("inf")])
def test_keep_outside_its_range_is_refused(keep):
    with pytest.raises(ValidationError):
        SelectConfig(**{**BASE, "keep": keep})


def test_unknown_settings_are_refused():
    with pytest.raises(ValidationError):
        SelectConfig(**BASE, keeep=0.1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keep": None}, "nothing to choose"),
        ({"keep": [0.1, 0.10]}, "twice"),
        ({"total": [5, 5]}, "n5 is given twice"),
        ({"data": None}, "training file"),
        ({"small": None}, "--small"),
        ({"target": None}, "--target"),
        ({"out": None}, "--out"),
        ({"skip_finetune": True, "adapter": "a"}, "cannot be combined"),
    ],
)
def test_incomplete_settings_say_what_to_give(change, words):
    with pytest.raises(ConfigError, match=words):
        SelectConfig(**{**BASE, **change})


def test_sizes_in_tokens_have_names_of_their_own():
    config = SelectConfig(**{**BASE, "keep": 0.2, "total": 40, "tokens": [900, 1000]})
    assert config.coreset_names == ["0.2", "n40", "t900", "t1000"]
    assert config.counts_tokens
    assert not SelectConfig(**BASE).counts_tokens
    assert SelectConfig(**BASE, keep_of="tokens").counts_tokens


def test_only_staff_needs_the_target():
    base = {name: value for name, value in BASE.items() if name != "target"}
    assert SelectConfig(**base, method="ccs").target is None
    with pytest.raises(ConfigError, match="--target"):
        SelectConfig(**base, method="staff")
    with pytest.raises(ConfigError, match="--small"):
        SelectConfig(**{**BASE, "small": None}, method="ccs")


def test_stability_takes_two_seeds_or_more():
    with pytest.raises(ValidationError):
        SelectConfig(**BASE, stability=1)


def test_random_needs_no_models():
    assert SelectConfig(data="d", out="o", keep=0.1, method="random").small is None


def test_reselection_refuses_what_the_scores_depend_on():
    with pytest.raises(ConfigError, match=r"--phi cannot be used with --scores"):
        SelectConfig(scores="runs/x", keep=0.3, phi="adapter")
    with pytest.raises(ConfigError, match=r"--data cannot be used with --scores"):
        SelectConfig(scores="runs/x", keep=0.3, data="train.jsonl")


def test_reselection_refuses_a_default_that_is_not_what_the_scores_were_made_with():
    given = SelectConfig(scores="runs/x", keep=0.3, phi="last-value", epochs=3, on_bad_row="error")
    earlier = SelectConfig(**BASE).model_dump(mode="json")
    assert given.inherit(earlier).method == "staff"
    for name, other in (("phi", "lm-head"), ("epochs", 5), ("on_bad_row", "skip")):
        words = f"--{name.replace('_', '-')} cannot be used with --scores"
        with pytest.raises(ConfigError, match=words):
            given.inherit({**earlier, name: other})


def test_reselection_goes_to_a_folder_named_after_what_differs():
    assert (
        SelectConfig(scores="runs/x/", keep=0.3, regions=100).folder
        == "runs/x-keep-0.3-regions-100"
    )
    assert SelectConfig(scores="runs/x", keep=[0.3, 0.5], preset="paper").folder == (
        "runs/x-keep-0.3-0.5-preset-paper"
    )
    assert SelectConfig(scores="runs/x", total=7, out="there", device="cpu").folder == "there"
    assert SelectConfig(scores="runs/x", keep=0.2, method="d2", gamma=0.5, nested=True).folder == (
        "runs/x-keep-0.2-method-d2-nested-gamma-0.5"
    )
    assert SelectConfig(
        scores="x", keep=0.2, exclude="/a/b/ids.txt", quota_column="a/b"
    ).folder == ("x-keep-0.2-quota-column-b-exclude-ids.txt")


def test_reselection_inherits_what_was_not_given():
    earlier = SelectConfig(
        **{**BASE, "keep": 0.1}, preset="paper", seed=7, regions=20, phi="adapter"
    )
    config = SelectConfig(scores="runs/x", keep=0.3, regions=100).inherit(earlier.model_dump())
    assert (config.preset, config.allocation, config.cut) == ("paper", "paper", 0.0)
    assert (config.seed, config.regions, config.keep, config.total) == (7, 100, (0.3,), ())
    assert config.out == "runs/x-keep-0.3-regions-100"
    assert config.phi == "last-value"  # not its own: the stored scores have theirs


def test_reselection_with_a_preset_replaces_the_earlier_choice():
    earlier = SelectConfig(**BASE, cut=0.25, within="random").model_dump()
    config = SelectConfig(scores="runs/x", keep=0.3, preset="released").inherit(earlier)
    assert (config.cut, config.within) == (0.1, "hardest")
    assert SelectConfig(scores="runs/x", keep=0.3).inherit(earlier).cut == 0.25


def test_every_setting_is_kept_selected_again_or_free():
    assert set(SCORE_KEYS) | RESELECT | FREE == set(SelectConfig.model_fields)
    assert not set(SCORE_KEYS) & FREE


@pytest.mark.parametrize(
    ("data", "out"),
    [
        ("runs/x/coreset-0.1.jsonl", "runs/x/coreset-0.1-tuned"),
        ("runs/x/coreset-0.1", "runs/x/coreset-0.1-tuned"),
        ("train.jsonl.gz", "train-tuned"),
        ("saved/", "saved-tuned"),
    ],
)
def test_an_adapter_is_named_after_its_data(data, out):
    assert FinetuneConfig(data=data, model="m").out == out
    assert FinetuneConfig(data=data, model="m", out="there").out == "there"


def test_what_is_named_after_the_working_folder_lies_beside_it(tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "x"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert SelectConfig(scores=".", keep=0.3).folder == f"{folder}-keep-0.3"
    assert SelectConfig(scores="..", keep=0.3).folder == f"{folder.parent}-keep-0.3"
    assert SelectConfig(scores="runs/x/.", keep=0.3).folder == "runs/x-keep-0.3"
    # Rejected rows lie beside the adapter, and in the folder itself would be data the next time.
    for data in (".", "*.jsonl", "./part-*.jsonl", "**/*.jsonl"):
        assert FinetuneConfig(data=data, model="m").out == f"{folder}-tuned"


def test_the_home_folder_is_written_out(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = ScoreConfig(data="~/d", model="~/m", adapter="~/a", out="~/o")
    assert (config.data, config.model) == ("/home/me/d", "/home/me/m")
    assert (config.adapter, config.out) == ("/home/me/a", "/home/me/o")
    assert FinetuneConfig(data="~/d.csv", model="m").out == "/home/me/d-tuned"


def test_answers_are_as_long_as_the_references_ask_for():
    assert EvaluateConfig(data="d", model="m").max_new_tokens is None


def test_metrics_are_known():
    with pytest.raises(ValidationError):
        EvaluateConfig(data="d", model="m", metrics=["rouge"])
    assert EvaluateConfig(data="d", model="m").metrics == ("loss", "rougeL", "bleu", "exact")
