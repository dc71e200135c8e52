"""The versions of the dependencies: what the metadata allow, what is imported, what is tested."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Tried for where they are: in a notebook, and with the extras.
OPTIONAL = {"IPython", "ray", "torchao", "bitsandbytes"}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def release(text: str) -> tuple[int, ...]:
    """The numbers of a version, without zeros at the end: 5.0 is 5.0.0."""
    numbers = [int(part) for part in re.match(r"\d+(\.\d+)*", text)[0].split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


@pytest.fixture(scope="module")
def bounds() -> dict[str, tuple[int, ...]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pairs = [re.fullmatch(r"([\w.-]+)>=([\d.]+)", text) for text in project["dependencies"]]
    assert all(pairs), "each dependency has a lower bound, and nothing else"
    return {canonical(pair[1]): release(pair[2]) for pair in pairs}


def pins(name: str) -> dict[str, tuple[int, ...]]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    parts = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonical(name): release(pinned) for name, pinned in parts}


def test_the_oldest_versions_are_the_lower_bounds(bounds):
    assert pins("constraints-oldest.txt") == bounds
    assert pins("constraints.txt").keys() == {"torch"}
    assert pins("constraints.txt")["torch"] >= bounds["torch"]


def test_what_is_installed_is_allowed(bounds):
    for name, least in bounds.items():
        assert release(version(name)) >= least, name


def test_what_is_imported_is_a_dependency(bounds):
    found = set()
    for file in (ROOT / "src" / "staff").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            found |= {name.partition(".")[0] for name in names}
    owners = packages_distributions()
    for name in found - set(sys.stdlib_module_names) - OPTIONAL - {"staff"}:
        assert {canonical(owner) for owner in owners[name]} & set(bounds), name
