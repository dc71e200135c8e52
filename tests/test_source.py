"""What no file of the package may do: run what it reads, or judge users' input by `assert`."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "src" / "staff"
# Modules that make objects, and so run code, from bytes.
UNSAFE_MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "marshal",
    "shelve",
    "joblib",
}
UNSAFE_CALLS = {
    *(f"{module}{name}" for module in ("", "builtins.") for name in ("eval", "exec", "compile", "__import__")),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all"),
    *("yaml.full_load", "yaml.full_load_all", "pandas.read_pickle"),
}  # fmt: skip
UNSAFE_NAMES = {"yaml.Loader", "yaml.UnsafeLoader", "yaml.FullLoader"}


def faults(source: str) -> list[str]:
    """What a file does that it may not, with its lines."""
    tree = ast.parse(source)
    names = imported_names(tree)
    return [
        f"line {getattr(node, 'lineno', 0)}: {fault}"
        for node in ast.walk(tree)
        for fault in faults_of(node, names)
    ]


def faults_of(node: ast.AST, names: dict[str, str]) -> list[str]:
    found = []
    if isinstance(node, ast.Import):
        found += [
            f"import {a.name}" for a in node.names if a.name.partition(".")[0] in UNSAFE_MODULES
        ]
    if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in UNSAFE_MODULES:
        found.append(f"from {node.module}")
    if isinstance(node, ast.Name | ast.Attribute) and dotted(node, names) in UNSAFE_NAMES:
        found.append(dotted(node, names))
    if isinstance(node, ast.Call):
        called, given = dotted(node.func, names), {k.arg: k.value for k in node.keywords}
        if called in UNSAFE_CALLS:
            found.append(called)
        if "shell" in given and not is_constant(given["shell"], False):
            found.append("shell=True")
        if not is_constant(given.get("weights_only", ast.Constant(True)), True):
            found.append("weights_only other than True")
        if is_constant(given.get("trust_remote_code"), True):
            found.append("trust_remote_code=True, whatever the user says")
        if called == "torch.load" and not is_constant(given.get("weights_only"), True):
            found.append("torch.load without weights_only=True")
        if (
            "allow_pickle" in given
            and called.startswith("numpy.")
            and not is_constant(given["allow_pickle"], False)
        ):
            found.append("allow_pickle=True")
    if isinstance(node, ast.Assert) and not narrows(node.test):
        found.append("assert that does more than narrow a type")
    return found


def narrows(test: ast.expr) -> bool:
    """Whether this is `x is not None` or `isinstance(x, …)`."""
    if isinstance(test, ast.Compare):
        return isinstance(test.ops[0], ast.IsNot) and is_constant(test.comparators[0], None)
    return isinstance(test, ast.Call) and getattr(test.func, "id", "") == "isinstance"


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def imported_names(tree: ast.AST) -> dict[str, str]:
    """What names stand for: `np` for `numpy`, `load` for `torch.load`."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """A name as it was imported, e.g. `np.load` as `numpy.load`; empty for anything else."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (before := dotted(node.value, names)):
        return f"{before}.{node.attr}"
    return ""


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_runs_what_it_reads(path):
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle",
        "import marshal as m",
        "from pickle import loads",
        "import dill.source",
        "def f():\n    import shelve",
        "from cloudpickle import load as read",
        "eval(text)",
        "exec(text)",
        "compile(text, 'x', 'eval')",
        "__import__(name)",
        "import builtins\nbuiltins.eval(text)",
        "from builtins import exec as run\nrun(text)",
        "import os\nos.system(text)",
        "from os import popen\npopen(text)",
        "import os as o\no.system(text)",
        "import subprocess\nsubprocess.run(text, shell=True)",
        "import subprocess\nsubprocess.run(text, shell=wanted)",
        "import subprocess\nsubprocess.getoutput(text)",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)",
        "import yaml\nyaml.unsafe_load(text)",
        "from yaml import unsafe_load\nunsafe_load(text)",
        "import yaml\nyaml.UnsafeLoader(text)",
        "import torch\ntorch.load(file)",
        "import torch\ntorch.load(file, weights_only=False)",
        "from torch import load\nload(file, 'cpu')",
        "AutoModel.from_pretrained(path, weights_only=False)",
        "AutoModel.from_pretrained(path, weights_only=not trust.pickle)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "import numpy as np\nnp.load(file, allow_pickle=True)",
        "import numpy as np\nnp.load(file, allow_pickle=wanted)",
        "assert keep > 0",
        "assert isinstance(x, int) and x > 0",
        "assert x is None",
    ],
)
def test_what_may_not_be_is_found(planted):
    assert faults(planted)


@pytest.mark.parametrize(
    "harmless",
    [
        "import re\nre.compile(text)",
        "model.eval()",
        "torch.compile(model)",
        "import yaml\nyaml.safe_load(text)\nyaml.SafeLoader(text)",
        "import subprocess\nsubprocess.run([program], shell=False)",
        "import torch\ntorch.load(file, map_location='cpu', weights_only=True)",
        "import numpy as np\nnp.load(file)\nnp.load(file, allow_pickle=False)",
        "config.allow_pickle",
        "AutoModel.from_pretrained(path, weights_only=True, trust_remote_code=trust.code)",
        "assert x is not None",
        "assert isinstance(x, int)",
    ],
)
def test_what_may_be_is_let_be(harmless):
    assert faults(harmless) == []
