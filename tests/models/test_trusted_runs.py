"""--allow-pickle and --trust-remote-code through the whole command line."""

import json

import pytest

from staff.cli.main import main

QUICK = ["--dtype", "float32", "--device", "cpu", "--epochs", "1"]
PICKLED = "pickled weights were allowed (--allow-pickle)"
CODE = "own code was allowed to run (--trust-remote-code)"


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "train.jsonl"
    rows = [{"prompt": f"w{i} w{i + 1}", "response": f"w{i + 2} w5"} for i in range(3, 43)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(folder, name="manifest.json"):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_a_model_with_its_own_code(own_code_model, marker, data, tmp_path, capsys):
    command = ["score", data, "--model", str(own_code_model), "--out", str(tmp_path / "s")]
    command += QUICK[:4]
    assert main(command) == 4
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert said.endswith("add --trust-remote-code if you have read it and trust it")
    assert not marker.exists()
    assert main([*command, "--trust-remote-code"]) == 0
    assert marker.exists()
    assert CODE in capsys.readouterr().out
    config = read(tmp_path / "s")["config"]
    assert (config["trust_remote_code"], config["allow_pickle"]) == (True, False)


def test_a_selection_with_pickled_models(pickled_model, data, tmp_path, capsys):
    out, model = tmp_path / "x", str(pickled_model)
    command = ["select", data, "--small", model, "--target", model, "--keep", "0.5", *QUICK]
    command += ["--regions", "2", "--verify-per-region", "3", "--out", str(out)]
    assert main(command) == 4
    assert "add --allow-pickle" in capsys.readouterr().err
    assert main([*command, "--allow-pickle"]) == 0
    assert PICKLED in capsys.readouterr().out
    assert read(out)["config"]["allow_pickle"] is True
    assert "\nallow_pickle: true\n" in (out / "config.yaml").read_text()
    assert PICKLED in (out / "report.html").read_text(encoding="utf-8")
    assert main(["report", str(out)]) == 0
    assert PICKLED in capsys.readouterr().out
    # What is chosen again from those scores owes them as much.
    assert main(["select", "--scores", str(out), "--keep", "0.3"]) == 0
    assert PICKLED in capsys.readouterr().out
    assert main(command) == 5  # another setting than that of the folder


def test_tuning_and_evaluating_a_pickled_model(pickled_model, data, tmp_path, capsys):
    model = ["--model", str(pickled_model), *QUICK[:4]]
    tuned, measured = str(tmp_path / "tuned"), tmp_path / "measured"
    tune = ["finetune", data, *model, "--max-steps", "1", "--out", tuned]
    evaluate = ["evaluate", data, *model, "--adapter", tuned, "--metrics", "loss"]
    evaluate += ["--out", str(measured)]
    for command in (tune, evaluate):
        assert main(command) == 4
        assert "add --allow-pickle" in capsys.readouterr().err
        assert main([*command, "--allow-pickle"]) == 0
        assert PICKLED in capsys.readouterr().out
    assert read(measured, "metrics.json")["config"]["allow_pickle"] is True


def test_a_comparison_with_a_pickled_target(pickled_model, data, tmp_path, capsys):
    out = tmp_path / "compared"
    command = ["compare", data, "--test", data, "--target", str(pickled_model), *QUICK]
    command += ["--methods", "random", "--keep", "0.5", "--seeds", "1", "--no-full"]
    command += ["--metrics", "loss", "--out", str(out)]
    assert main(command) == 4
    assert "add --allow-pickle" in capsys.readouterr().err
    assert main([*command, "--allow-pickle"]) == 0
    assert PICKLED in capsys.readouterr().out
    assert read(out, "compare.json")["config"]["allow_pickle"] is True
    for name in ("results.md", "report.html"):
        assert PICKLED in (out / name).read_text(encoding="utf-8")
