"""`staff plan` on the command line."""

import json

import pytest

from staff import __version__
from staff.cli.main import main

COMMAND = "plan rows.jsonl --small small --target target --prompt-column mr --response-column ref"


@pytest.fixture
def place(tmp_path, monkeypatch, family, e2e_file):
    for name, model in zip(("small", "target"), family, strict=True):
        (tmp_path / name).symlink_to(model)
    e2e_file(30, tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("width", [60, 180])
@pytest.mark.parametrize("device", ["h100-80gb", "cpu"])
def test_the_plan_fits_the_terminal(place, capsys, monkeypatch, width, device):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main([*COMMAND.split(), "--keep", "0.1", "0.2", "--device", device]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    assert "padded: tokens with the padding of batches" in words
    for part in ("fine-tune small", "verify on target", "tune target on all", "pays off from"):
        assert part in words
    assert ("assumed: 30% of the peak" in words) == (device != "cpu")
    assert ("for times give --probe" in words) == (device == "cpu")
    assert ("Neither includes start, reading" in words) == (device != "cpu")
    assert " 0.0 s" not in words  # milliseconds and less are told, too


def test_a_figure_without_a_source_is_told(place, capsys):
    command = [*COMMAND.split(), "--keep", "0.1", "--device"]
    for device in ("rtx-3090", "l4"):
        assert main([*command, device]) == 0
        words = " ".join(capsys.readouterr().out.split())
        assert ("its speed not confirmed" in words) == (device == "rtx-3090")
        assert "(figures from " in words


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--processes 4", "Processes 4 with torchrun, not for reading; memory per device, times"),
        (
            "--executor ray --workers 4",
            "Workers 4 of Ray, for scoring only; memory per device, times",
        ),
    ],
)
def test_who_shares_the_work_is_told(place, capsys, more, words):
    command = [*COMMAND.split(), "--keep", "0.1", "--device", "l4"]
    assert main([*command, *more.split()]) == 0  # without Ray: none is started
    assert words in " ".join(capsys.readouterr().out.split())
    assert main(command) == 0
    assert words.split()[0] not in capsys.readouterr().out


def test_as_json(place, capsys, tmp_path):
    assert main([*COMMAND.split(), "--total", "5", "--device", "l4", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["format"], plan["staff_version"], plan["command"]) == (1, __version__, "plan")
    assert plan["coresets"][0]["name"] == "n5"
    assert plan["device"]["source"].startswith("https://")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "small", "target"]


def test_the_flags_of_a_selection_are_those_of_its_plan(place, capsys):
    command = COMMAND.replace("plan", "select", 1).split()
    assert main([*command, "--keep", "0.1", "--out", "x", "--print-config"]) == 0
    with open("run.yaml", "w") as file:  # noqa: PTH123
        file.write(capsys.readouterr().out)
    assert main(["plan", "--config", "run.yaml", "--device", "l4"]) == 0
    assert "Selection costs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("", "nothing to choose: give --keep"),
        (
            "--keep 0.1 --score-on 0.5 --features",
            "--score-on 0.5 works only with the methods staff",
        ),
        ("--keep 0.1 --method random", "--method random needs no plan"),
        ("--keep 0.1 --device abacus", "device 'abacus' is not in the table"),
        ("--keep 0.1 --small auto", "--small auto: no model in the table"),
    ],
)
def test_refusals(place, capsys, more, words):
    command = COMMAND.replace("--small small ", "") if "auto" in more else COMMAND
    assert main([*command.split(), *more.split()]) == 2
    assert words in capsys.readouterr().err
