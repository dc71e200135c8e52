import pytest
import yaml

from staff.errors import ConfigError
from staff.runs.compare_config import CompareConfig
from staff.runs.config import SelectConfig
from staff.runs.config_file import build, dump_yaml, load_yaml

FLAGS = {"data": "train.jsonl", "small": "S", "target": "T", "out": "runs/x", "keep": ["0.1"]}


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_override_yaml_and_yaml_overrides_defaults(tmp_path):
    file = write(tmp_path, "regions: 20\nseed: 3\nskip-finetune: true\nlearning_rate: 2e-4\n")
    config = build(SelectConfig, flags={**FLAGS, "seed": "4"}, file=file)
    assert (config.regions, config.seed, config.skip_finetune) == (20, 4, True)
    assert config.learning_rate == 2e-4  # YAML 1.1 reads 2e-4 as text


def test_the_preset_of_a_flag_does_not_undo_what_yaml_says(tmp_path):
    file = write(tmp_path, "cut: 0.05\n")
    config = build(SelectConfig, flags={**FLAGS, "preset": "paper"}, file=file)
    assert (config.allocation, config.cut) == ("paper", 0.05)


def test_sizes_on_the_command_line_replace_all_sizes_of_the_file(tmp_path):
    file = write(tmp_path, "keep: [0.1, 0.2]\ntotal: 9\n")
    flags = {**FLAGS, "total": ["400"]}
    del flags["keep"]
    assert build(SelectConfig, flags=flags, file=file).coreset_names == ["n400"]


@pytest.mark.parametrize(
    "more",
    [{}, {"preset": "paper", "cut": "0.2"}, {"total": ["7"], "seed": "12", "max_length": "99"},
     {"prompt_template": "{a}\n{b} é: #"}, {"learning_rate": "1e-7"}],
)  # fmt: skip
def test_what_a_run_writes_replays(tmp_path, more):
    config = build(SelectConfig, flags={**FLAGS, **more})
    assert build(SelectConfig, file=write(tmp_path, dump_yaml(config))) == config


def test_a_replay_can_still_change_its_preset(tmp_path):
    file = write(tmp_path, dump_yaml(build(SelectConfig, flags=FLAGS)))
    config = build(SelectConfig, flags={"preset": "paper"}, file=file)
    assert (config.allocation, config.within, config.cut) == ("paper", "random", 0.0)


def test_a_replay_never_starts_over(tmp_path):
    assert "overwrite" not in dump_yaml(build(SelectConfig, flags={**FLAGS, "overwrite": True}))


def test_a_reselection_replays(tmp_path):
    config = SelectConfig(scores="runs/x", keep=0.3).inherit({"seed": 5, "cut": 0.2})
    assert build(SelectConfig, file=write(tmp_path, dump_yaml(config))) == config


def test_the_order_of_the_file_is_the_order_of_the_declaration():
    lines = dump_yaml(build(SelectConfig, flags=FLAGS), replay="staff again").splitlines()
    assert lines[0].startswith("# staff ")
    assert lines[0].endswith("again: staff again")
    assert [line.split(":")[0] for line in lines[1:4]] == ["data", "small", "target"]
    assert "preset: released  # allocation: shares, within: hardest, cut: 0.1" in lines


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("keeep: 0.1", "line 1: unknown setting 'keeep'; did you mean 'keep'"),
        ("a: 1", "unknown setting 'a'; staff select --help lists all"),
        ("keep: 0.1\nkeep: 0.2", "keep is set twice, in line 1 and line 2"),
        ("max-length: 1\nmax_length: 2", "max_length is set twice"),
        ("keep: true", "keep must be a number, not true or false"),
        ("seed: yes", "seed must be a number"),
        ("regions: fifty", "regions must be a whole number or 'auto', not 'fifty'"),
        ("regions: 1.5", "regions must be a whole number"),
        ("small: 12", r"small must be text \(put it in quotes\), not 12"),
        ("skip_finetune: maybe", "skip_finetune must be true or false"),
        ("learning_rate: .inf", "learning_rate must be a finite number"),
        ("phi: last-valu", "did you mean 'last-value'"),
        ("cut: 1", "cut must be below 1"),
        ("total: 0", "total must be at least 1, not 0"),
        ("keep: 0.1: 2", "line 1: not valid YAML"),
        ("- keep", "settings are lines like"),
        ("!!python/object/apply:os.system [ls]", "settings are lines like"),
        ("data: !!python/name:os.system", "not valid YAML"),
    ],
)
def test_mistakes_in_yaml_name_file_and_place(tmp_path, text, words):
    flags = {name: FLAGS[name] for name in ("target", "out")}
    with pytest.raises(ConfigError, match=rf"run\.yaml.*{words}") as error:
        build(SelectConfig, flags=flags, file=write(tmp_path, text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["? [a]\n: 1", "own: {? [a] : 1}"])
def test_a_list_as_a_name_is_refused_and_not_written_out(tmp_path, monkeypatch, text):
    # A few lists that hold one another many times each would be more than any memory has room for.
    monkeypatch.setattr(yaml.Node, "__repr__", lambda node: pytest.fail("was written out"))
    with pytest.raises(ConfigError, match=r"not valid YAML \(found unhashable key"):
        load_yaml(write(tmp_path, text), CompareConfig)


@pytest.mark.parametrize(
    "more", ["methods: [*c]", "own: {a: *c}", "metrics: &m [*m]", "<<: [*c]", "? *c\n: 1"]
)
def test_what_aliases_multiply_is_refused_before_it_is_looked_at(tmp_path, monkeypatch, more):
    monkeypatch.setattr(yaml.SafeLoader, "construct_document", lambda *_: pytest.fail("was made"))
    tens = [f"- &{b} [{', '.join([f'*{a}'] * 99)}]\n" for a, b in ("ab", "bc")]
    text = f"keep:\n- &a [0.5]\n{''.join(tens)}{more}\n"
    with pytest.raises(ConfigError, match=r"too many values for settings, with aliases written"):
        load_yaml(write(tmp_path, text), CompareConfig)


def test_an_alias_may_stand_for_a_value(tmp_path):
    file = write(tmp_path, "small: &m model\ntarget: *m\nmethods: &k [random]\nmetrics: *k\n")
    assert load_yaml(file, CompareConfig)["metrics"] == ["random"]


def test_a_list_in_a_list_is_no_name_and_file(tmp_path):
    with pytest.raises(ConfigError, match=r"own must look like NAME=FILE, and \['a=b'\] does not"):
        build(CompareConfig, flags=FLAGS, file=write(tmp_path, "own: [[a=b]]"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"keep": ["1.5"]}, r"--keep 1\.5 must be above 0 and at most 1"),
        ({"keep": ["0"]}, "--keep 0 must be above 0"),
        ({"keep": ["train.jsonl"]}, "a file goes before the flags"),
        ({"total": ["0"]}, "--total must be at least 1"),
        ({"total": ["1.5"]}, "--total must be a whole number"),
        ({"seed": "x"}, "--seed must be a whole number"),
        ({"verify_per_region": "0"}, "--verify-per-region must be at least 1"),
        ({"learning_rate": "0"}, "--learning-rate must be above 0"),
    ],
)
def test_mistakes_in_flags_name_the_flag(flags, words):
    with pytest.raises(ConfigError, match=words):
        build(SelectConfig, flags={**FLAGS, **flags})


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*none\.yaml: No such file"):
        load_yaml(tmp_path / "none.yaml", SelectConfig)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a text file"):
        load_yaml(tmp_path / "binary.yaml", SelectConfig)


def test_an_empty_file_sets_nothing(tmp_path):
    assert load_yaml(write(tmp_path, "# nothing\n"), SelectConfig) == {}


@pytest.mark.parametrize("line_break", ["\n", "\r", "\x85", "\u2028", "\x1b"])
def test_a_path_puts_no_setting_into_the_remark(tmp_path, line_break):
    out = f"x{line_break}keep: [1.0]"
    config = SelectConfig(data="d", method="random", keep=0.5, out=out)
    text = dump_yaml(config, replay=f"staff select --config '{out}/config.yaml'")
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    again = build(SelectConfig, file=tmp_path / "config.yaml")
    assert again.keep == (0.5,)
    assert again.out.startswith("x")
    assert again.out.endswith("keep: [1.0]")
