from typing import get_args

import pytest

from staff.errors import ConfigError
from staff.exports.export import TRAINERS
from staff.runs.config_file import build
from staff.runs.export_config import ExportConfig


def test_the_trainers_of_the_flag_are_those_there_are():
    kind = ExportConfig.model_fields["to"].annotation
    assert {name for part in get_args(kind) for name in get_args(part)} == set(TRAINERS)


@pytest.mark.parametrize(("written", "name"), [("0.10", "0.1"), ("n500", "n500"), ("1", "1")])
def test_a_coreset_may_be_a_number_in_yaml(tmp_path, written, name):
    file = tmp_path / "export.yaml"
    file.write_text(f"run: x\nto: trl\nkeep: {written}\n")
    assert build(ExportConfig, file=file).keep == name


def test_both_are_needed():
    for given, words in (({"run": "x"}, "to is missing"), ({"to": "trl"}, "run is missing")):
        with pytest.raises(ConfigError, match=words):
            build(ExportConfig, flags=given)
