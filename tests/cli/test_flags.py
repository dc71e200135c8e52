import re

import pytest

from staff.cli.main import main
from staff.runs.config import SelectConfig
from staff.runs.config_file import load_yaml

SELECT = [
    "small",
    "target",
    "keep",
    "total",
    "out",
    "scores",
    "regions",
    "verify-per-region",
    "cut",
    "allocation",
    "within",
    "preset",
    "method",
    "seed",
    "phi",
    "epochs",
    "learning-rate",
    "skip-finetune",
    "adapter",
    "max-length",
    "batch-tokens",
    "dtype",
    "device",
    "format",
    "input-format",
    "prompt-column",
    "response-column",
    "prompt-template",
    "id-column",
    "source-column",
    "on-bad-row",
    "overwrite",
    "features",
    "config",
    "print-config",
    "dry-run",
    "quiet",
    "verbose",
    "debug",
]


def printed(capsys, *arguments):
    """The settings `--print-config` shows for a command line, as YAML text."""
    assert main([*arguments, "--print-config"]) == 0
    return capsys.readouterr().out


def test_help_names_every_flag(capsys):
    assert main(["select", "--help"]) == 0
    text = capsys.readouterr().out
    for name in SELECT:
        assert f"--{name} " in text, name
    assert "Examples:" in text
    assert re.search(r"\[default:\W+last-value\]", text)  # at any width, in a frame


def test_flags_are_parsed_in_any_order(capsys, tmp_path):
    text = printed(
        capsys, "select", "d.jsonl", "--keep", "0.1", "0.2", "--small", "S", "--keep", "0.5", "--total=40",
        "--target", "T", "--out", "o", "--preset", "paper", "--cut", "0.05", "--features", "--seed", "-1",
    )  # fmt: skip
    (tmp_path / "run.yaml").write_text(text)
    values = load_yaml(tmp_path / "run.yaml", SelectConfig)
    assert values["data"] == "d.jsonl"
    assert (values["keep"], values["total"], values["seed"]) == ([0.1, 0.2, 0.5], [40], -1)
    assert (values["preset"], values["cut"], values["features"]) == ("paper", 0.05, True)


def test_flags_override_the_file(capsys, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "data: d.jsonl\nsmall: S\ntarget: T\nout: o\nkeep: 0.1\nfeatures: true\nregions: 9\n"
    )
    text = printed(capsys, "select", "--config", str(file), "--regions", "7", "--no-features")
    assert "regions: 7" in text
    assert "features: false" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["selct"], 'unknown command "selct". Did you mean "select"'),
        (["select", "d", "--kep", "0.1"], "unknown option: --kep; did you mean --keep"),
        (["select", "d", "e"], "see staff select --help"),
        (["select", "d", "--seed", "1", "--seed", "2"], "--seed specified multiple times"),
        (["select", "d", "--keep"], "--keep needs a value (see staff select --help)"),
        (["select", "d", "--phi", "last-valu"], 'Did you mean "last-value"'),
        (["select", "d", "--keep", "1.5"], "--keep 1.5 must be above 0"),
        (["select", "--keep", "0.1", "d.jsonl"], "a file goes before the flags"),
        (["select", "d", "--total", "0"], "--total must be at least 1"),
        (["select", "d", "--small", "S", "--target", "T", "--out", "o"], "nothing to choose"),
        (["select", "--keep", "0.1"], "data is missing"),
        (["select", "--config", "none.yaml"], "cannot read none.yaml"),
        (["score", "d", "--out", "o"], "model is missing: give --model"),
        (["evaluate", "d", "--model", "m", "--metrics", "rouge"], 'Did you mean "rougeL"'),
        (["why", "--row", "1"], "which run?"),
        (["why", "runs/x"], "which row?"),
        (["why", "runs/x", "--row", "x"], "--row must be a whole number"),
        (["report"], "which run?"),
    ],
)
def test_mistyped_commands_are_one_line_and_exit_2(capsys, arguments, words):
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
