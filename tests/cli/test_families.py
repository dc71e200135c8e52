"""`staff families`, and --small auto on the command line."""

import json
import re

import pytest

from staff.cli.main import main


@pytest.mark.parametrize("width", [60, 180])
def test_the_table_fits_the_terminal(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["families", "gemma 2"]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    sources = [line for line in lines if re.fullmatch(r"\[\d+\] https://\S+", line)]
    assert sources
    assert max(len(line) for line in lines if line not in sources) <= width
    assert [f"Gemma 2:{''.join(f' [{n + 1}]' for n in range(len(sources)))}"] == [
        line for line in lines if line.startswith("Gemma 2")
    ]
    assert "tied embeddings" in text  # of Gemma 2 it is not confirmed
    words = " ".join(text.split())
    assert "none of these pages says" in words
    assert "(tied embeddings: whether input and output share one matrix)." in words
    assert "google/gemma-2-9b-it" in text
    assert "Llama" not in text


def test_as_json(capsys):
    assert main(["families", "llama-3.1-8b-instruct", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [pair["small"] for pair in found] == ["meta-llama/Llama-3.2-1B-Instruct"] * 2


def test_nothing_of_that_name(capsys):
    assert main(["families", "gpt-4"]) == 2
    assert "no target in the table of families has 'gpt-4' in its name" in capsys.readouterr().err


def test_small_auto_is_written_out(pipeline, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("staff.models.folder.check_model_folder", lambda path, **_: None)
    command = [
        "select",
        str(data),
        "--small",
        "auto",
        "--keep",
        "0.1",
        "--out",
        str(tmp_path / "x"),
    ]
    assert main([*command, "--target", "Qwen/Qwen2.5-7B"]) == 0
    assert pipeline.calls[0][1].small == "Qwen/Qwen2.5-0.5B"
    assert "--small auto: Qwen/Qwen2.5-0.5B, of Qwen2.5\n" in capsys.readouterr().err
    assert main([*command, "--target", "someone/else"]) == 2
    assert "someone/else is not in the table of families" in capsys.readouterr().err
    assert main([*command, "--method", "grand"]) == 2
    assert "--small auto depends on the target: give --target" in capsys.readouterr().err
