"""Runs without a model, of every record format, to export from."""

import json
import shutil

import pytest
from export_records import CALLING, RECORDS, line, pairs

from staff import select_coreset


@pytest.fixture
def make_run(tmp_path):
    """Makes the folder of a finished run over records; settings as of `select_coreset`."""

    def make(records, *, name="run", keep=0.5, **settings):
        data = tmp_path / f"{name}.jsonl"
        lines = records if isinstance(records, str) else "".join(map(line, records))
        data.write_text(lines, encoding="utf-8")
        out = tmp_path / name
        select_coreset(data, method="random", keep=keep, out=out, **settings)
        return out

    return make


@pytest.fixture
def run(make_run):
    """A run over prompt and response under other names; its coreset 0.5 has six rows."""
    return make_run(pairs(), **RECORDS["pairs"][1])


@pytest.fixture
def change_manifest():
    """Gives a run other settings, as its manifest has them; `models` are its models."""

    def change(run, *, models=None, **config):
        file = run / "manifest.json"
        manifest = json.loads(file.read_text())
        manifest["config"] |= config
        manifest |= {} if models is None else {"models": models}
        file.write_text(json.dumps(manifest))

    return change


@pytest.fixture
def calling(family, tmp_path):
    """The target with a chat template that writes calls of tools."""
    folder = tmp_path / "calling"
    shutil.copytree(family[1], folder)
    (folder / "chat_template.jinja").write_text(CALLING, encoding="utf-8")
    return folder
