"""docs/reference/ is what tools/reference.py makes of the command line and the docstrings, and is whole."""

import importlib.util

import pytest
from doc_commands import ROOT

import staff
from staff.runs.compare_config import CompareConfig
from staff.runs.config import EvaluateConfig, FinetuneConfig, ScoreConfig, SelectConfig
from staff.runs.export_config import ExportConfig
from staff.runs.plan_config import PlanConfig
from staff.runs.settings import flag

spec = importlib.util.spec_from_file_location("reference", ROOT / "tools" / "reference.py")
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)
CONFIGS = [
    *(SelectConfig, ScoreConfig, FinetuneConfig, EvaluateConfig, CompareConfig, PlanConfig),
    ExportConfig,
]


@pytest.mark.parametrize("name", sorted(tool.PAGES))
def test_the_page_is_what_the_code_says(name):
    found = (tool.FOLDER / name).read_text(encoding="utf-8")
    assert found == tool.PAGES[name](), "run: python tools/reference.py"


@pytest.mark.parametrize("config", CONFIGS, ids=[config.command for config in CONFIGS])
def test_every_setting_is_there_with_help_and_default(config):
    page = (tool.FOLDER / "cli.md").read_text(encoding="utf-8")
    section = page.split(f"\n## staff {config.command}\n")[1].split("\n## ")[0]
    for name, field in config.model_fields.items():
        rows = [line for line in section.split("\n") if line.startswith("| ")]
        [row] = [line for line in rows if f"`{flag(name)}`" in line.split("|")[1]]
        assert field.description.replace("\n", " ").replace("|", r"\|") in row
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert f"{field.default:g}" in row.rsplit("|", 2)[1], name


def test_all_public_names_are_there():
    page = (tool.FOLDER / "python.md").read_text(encoding="utf-8")
    from staff import selectors

    for name in {*staff.__all__, *selectors.__all__} - {"__version__"}:
        assert f"### {name}\n" in page, name
