import pytest

from staff.errors import ConfigError
from staff.runs.compare_config import CompareConfig
from staff.runs.config_file import build, dump_yaml

GIVEN = {"data": "a", "test": "b", "small": "s", "target": "t", "keep": [0.1], "out": "o"}


def made(**changes):
    return build(CompareConfig, flags={k: v for k, v in {**GIVEN, **changes}.items() if v})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": None}, "data is missing: give a training file, e.g. staff compare train.jsonl"),
        ({"test": None}, "test is missing: give --test FILE"),
        ({"target": None}, "target is missing"),
        ({"out": None}, "out is missing"),
        ({"small": None}, "small is missing"),
        ({"keep": None}, "nothing to choose: give --keep"),
        ({"keep": [0.1, "0.10"]}, "0.1 is given twice in --keep"),
        ({"methods": ["random", "random"]}, "random is given twice in --methods"),
        ({"metrics": ["loss", "bleu", "loss"]}, "loss is given twice in --metrics"),
        ({"methods": ["stuff"]}, "--methods must be .*; did you mean 'staff'"),
        ({"metrics": []}, "--metrics"),
        ({"seeds": 0}, "--seeds"),
        ({"own": ["a=x", "A=y"]}, "--own A: the name is taken"),
        ({"own": ["untuned=x"]}, "--own untuned: the name is taken"),
        ({"own": [f"{'a' * 21}=x"]}, "a name is at most 20 letters"),
        ({"own": ["a="]}, "--own must not be empty"),
        ({"same": "time"}, "--same must be 'epochs' or 'steps'"),
    ],
)
def test_refusals(changes, words):
    with pytest.raises(ConfigError, match=words):
        build(CompareConfig, flags={k: v for k, v in {**GIVEN, **changes}.items() if v is not None})


def test_a_fraction_above_1_has_no_hint_at_a_flag_that_is_not_there():
    with pytest.raises(ConfigError) as said:
        made(keep=[400])
    assert "--total" not in str(said.value)


def test_random_alone_needs_no_small_model():
    assert made(methods=["random"], small=None).small is None


def test_coresets_of_ones_own_and_their_files(tmp_path):
    config = made(own=["mine=x.jsonl", "less=l-{keep}-{seed}.jsonl"], seeds="2")
    assert config.own_files() == {
        ("mine", "0.1", 0): "x.jsonl", ("mine", "0.1", 1): "x.jsonl",
        ("less", "0.1", 0): "l-0.1-0.jsonl", ("less", "0.1", 1): "l-0.1-1.jsonl",
    }  # fmt: skip
    assert config.entrants == ("staff", "random", "mine", "less")
    path = tmp_path / "x.yaml"
    path.write_text(dump_yaml(config))
    assert build(CompareConfig, file=path) == config
    assert build(CompareConfig, file=path, flags={"own": ["b=y"]}).own == {"b": "y"}
    assert "own:" not in dump_yaml(made())
    path.write_text(path.read_text().replace("x.jsonl", '"x\\0.jsonl"'))
    with pytest.raises(ConfigError, match=r"own .* contains a NUL character"):
        build(CompareConfig, file=path)


def test_a_name_twice_in_a_file_is_refused(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("own: {mine: a, less: b, mine: c}")
    with pytest.raises(ConfigError, match="own has mine twice"):
        build(CompareConfig, flags=GIVEN, file=path)


def test_presets_and_yaml(tmp_path):
    config = made(preset="paper", seeds="5", metrics="loss")
    assert (config.allocation, config.within, config.cut) == ("paper", "random", 0)
    assert (config.seeds, config.metrics, config.keep_names) == (5, ("loss",), ("0.1",))
    path = tmp_path / "x.yaml"
    path.write_text(dump_yaml(config))
    assert "allocation:" not in path.read_text().replace("# allocation:", "")
    assert build(CompareConfig, file=path) == config
    assert build(CompareConfig, file=path, flags={"keep": [0.2]}).keep == (0.2,)
