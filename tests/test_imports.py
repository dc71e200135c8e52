"""Who may import whom: the picture in docs/architecture.md, held against the code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "src" / "staff"
SHARED = {"errors", "rng", "types", "ids", "progress", "visible", "hashing", "notes", "words"}
ALLOWED = {
    "errors": set(),
    "rng": set(),
    "types": set(),
    "ids": set(),
    "progress": set(),
    "visible": set(),
    "hashing": set(),
    "notes": set(),
    "words": set(),
    "data": set(),
    "models": set(),
    "scores": {"models", "data"},
    "training": {"models", "data"},
    "selectors": set(),
    # runs: PRESETS are the selectors' to say; results are made from what data and selectors gave.
    "runs": {"selectors", "data"},
    "reports": {"data", "runs", "selectors"},  # of these the statistics of agreement
    "checks": {"runs", "data", "models", "stages", "training", "selectors"},
    "stages": {
        "data",
        "models",
        "scores",
        "training",
        "runs",
        "checks",
        "ledger",
        "selectors",
        "team",
    },
    "ledger": {"runs"},
    "asked": {"methods", "selectors", "data", "runs", "stages"},
    "foreseen": {"asked", "selectors", "models", "data", "runs", "stages"},
    "methods": {"selectors", "scores", "runs"},
    "wishes": {"selectors", "data", "runs"},
    "stored": {"methods", "selectors", "scores", "runs", "data"},
    "outputs": {"methods", "ledger", "data", "runs", "selectors", "reports"},
    "pipeline": {
        *("stages", "ledger", "methods", "wishes", "stored", "outputs", "data", "runs", "team"),
        *("scores", "selectors", "asked", "foreseen"),
    },
    "heartbeat": set(),
    "team": {"training", "heartbeat"},
    "single": {"team", "stages", "ledger", "data", "runs", "training", "selectors"},
    "check_model": {"stages", "data", "runs", "models", "scores", "selectors"},
    "planning": {
        *("stages", "data", "runs", "asked", "methods", "selectors", "wishes", "stored"),
        *("models", "training", "scores", "foreseen"),
    },
    "compare": {
        *("pipeline", "single", "planning", "stages", "asked"),
        *("data", "models", "runs", "selectors", "training", "reports", "scores", "ledger"),
    },
    "exports": {"data", "runs", "models"},
    "finished": {"runs", "reports"},
    "api": {
        *("pipeline", "compare", "finished", "checks", "runs", "data", "models", "reports"),
        "team",
    },
    "demo": {"pipeline", "single", "data", "runs", "selectors", "training"},
}


def imported(path: Path) -> set[str]:
    """First name below `staff` of everything a file imports from it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "staff":
                names |= {alias.name for alias in node.names}
            elif node.module.startswith("staff."):
                names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("staff.")}
    return names


def part_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py")


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_imports_follow_the_picture(part):
    files = [path for path in sorted(ROOT.rglob("*.py")) if part_of(path) == part]
    assert files
    for path in files:
        extra = imported(path) - ALLOWED[part] - SHARED - {part, "__version__"}
        assert not extra, f"{path.relative_to(ROOT)} imports {sorted(extra)}"


def test_every_part_is_in_the_picture():
    parts = {part_of(path) for path in ROOT.rglob("*.py")} - {"__init__", "__main__", "cli"}
    assert parts == set(ALLOWED)


LIGHT = ("staff", "staff.selectors", "staff.cli.main", "staff.checks", "staff.planning")


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_do_not_import_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("module", ["staff.scores.effort", "staff.scores.run", "staff.models.load"])
def test_the_scoring_core_does_not_import_trl(module):
    code = f"import sys, {module}; sys.exit('trl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_the_command_line_prints():
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print" or part_of(path) == "cli", path
