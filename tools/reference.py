"""Write docs/reference/ from the help of the flags and the docstrings: python tools/reference.py"""

import ast
import importlib
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

from cyclopts import App

from staff.cli.main import SUMMARY, VERBS, build_app

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference"
CLI_HEAD = """\
# Command line

<!-- not run on this page: tests/docs/test_help_examples.py runs them, on its own files -->

{summary}

{verbs}

Every flag of every verb, with its default; flags without a default are unset unless given. The
output of `--print-config` can be saved as a YAML file and passed as `--config`; flags override it:
[config.yaml](../formats.md#configyaml). See also [exit codes](../formats.md#exit-codes). This page
has the text of `staff VERB --help`; it is written by `python tools/reference.py`, and a test checks
that it is up to date.
"""
PYTHON_HEAD = """\
# Python

The public names: the whole pipeline (`staff`), and the selectors for your own scores
(`staff.selectors`: NumPy only, without torch). Shapes: n rows, K regions, m chosen rows. This page
is written by `python tools/reference.py` from the docstrings, and a test checks that it is up to
date. Runnable code: [examples](../../examples).
"""
MODULES = {
    "staff": ("select_coreset", "Run", "compare_coresets", "Comparison"),
    "staff.errors": ("StaffError", "ConfigError", "DataError", "ModelError", "RunError"),
    "staff.selectors": None,  # all that it names
    "staff.types": ("Selection", "Regions", "Verification", "Round", "Budget"),
}


def cli_page() -> str:
    """Every verb with its flags."""
    app = build_app()
    verbs = "\n".join(f"- [`staff {name}`](#staff-{name}): {text}" for name, text in VERBS.items())
    parts = [CLI_HEAD.format(summary=SUMMARY, verbs=verbs)]
    for name, text in VERBS.items():
        verb = app[name]
        parts.append(f"## staff {name}\n\n{text}\n")
        inner = [verb[n] for n in verb.resolved_commands() if not n.startswith("-")]
        for sub in inner or [verb]:
            if inner:
                parts.append(f"### staff {name} {sub.name[0]}\n\n{sub.help}\n")
            parts += _flags(sub)
        examples = textwrap.dedent((verb.help_epilogue or "").removeprefix("Examples:")).strip()
        if examples:
            parts.append(f"```sh\n{examples}\n```\n")
    return "\n".join(parts)


def _flags(verb: App) -> list[str]:
    """A table for each panel of a verb's help, in its order."""
    panels: dict[tuple[int, str], list[str]] = {}
    for argument in verb.assemble_argument_collection():
        group = argument.parameter.group[0]
        panel = (group.sort_key if isinstance(group.sort_key, int) else -1, group.name)
        panels.setdefault(panel, []).append(_row(argument))
    return [
        f"| {title} | | default |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"
        for (_, title), rows in sorted(panels.items(), key=lambda item: item[0][0])
    ]


def _row(argument: Any) -> str:
    """One flag: its names, its help with the choices, and its default."""
    shown = argument.parameter.show_default
    default = shown(argument.field_info.default) if callable(shown) else ""
    names = ", ".join(f"`{name}`" for name in argument.names)
    if not argument.field_info.is_keyword_only:
        operand = argument.field_info.names[0].replace("_", "-").upper()
        names = f"`{operand}`" if not names else f"`{operand}` or {names}"
    choices = argument.get_choices()
    text = argument.parameter.help or ""
    if choices:
        text += f" One of {', '.join(f'`{choice}`' for choice in choices)}."
    default = f"`{default}`" if default else ""
    return f"| {names} | {_cell(text)} | {default} |"


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


def python_page() -> str:
    """The public names of MODULES with signature and docstring."""
    parts = [PYTHON_HEAD]
    for module_name, names in MODULES.items():
        module = importlib.import_module(module_name)
        parts.append(f"## {module_name}\n\n{_prose(module.__doc__ or '')}\n")
        for name in names or module.__all__:
            thing = getattr(module, name)
            if inspect.isfunction(thing) or inspect.isclass(thing):
                parts.append(f"### {name}\n\n{_entry(name, thing)}")
            elif names is None:
                parts.append(f"### {name}\n\n{_value(thing)}\n")
    return "\n".join(parts)


def _entry(name: str, thing: Any) -> str:
    """Signature, docstring and, of a class, its fields and properties."""
    kind = "class" if inspect.isclass(thing) else ""
    signature = _class_signature(thing) if kind else _signature(thing)
    text = f"```python\n{signature}\n```\n\n{_prose(inspect.getdoc(thing) or '')}\n"
    if kind:
        for member, value in vars(thing).items():
            function = value.fget if isinstance(value, property) else value
            function = function.__func__ if isinstance(value, classmethod) else function
            if inspect.isfunction(function) and not member.startswith("_"):
                called = member if isinstance(value, property) else _call(value, function)
                prose = _prose(inspect.getdoc(function) or "")
                text += textwrap.indent(f"`{called}`: {prose}\n", "  ").replace("  ", "\n- ", 1)
    return text


def _call(value: Any, function: Any) -> str:
    """A method as it is called: without self or cls, the latter by the name of its class."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    del tree.args.args[0]
    owner = function.__qualname__.split(".")[0]
    name = f"{owner}.{tree.name}" if isinstance(value, classmethod) else tree.name
    return f"{name}({ast.unparse(tree.args)})"


def _signature(function: Any) -> str:
    """A function's arguments as they stand in its source, a line each where they are many."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    returns = f" -> {ast.unparse(tree.returns)}" if tree.returns else ""
    line = f"{tree.name}({ast.unparse(tree.args)}){returns}"
    if len(line) <= 96:
        return line
    parameters = inspect.signature(function).parameters
    broken = re.sub(rf",\s(?=\*|(?:{'|'.join(parameters)})\b[:=,])", ",\n    ", line)
    head, _, rest = broken.partition("(")
    body, _, tail = rest.rpartition(f"){returns}")
    return f"{head}(\n    {body},\n){returns}{tail}"


def _class_signature(thing: type) -> str:
    """A class with its bases, and the fields of a dataclass."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
    assert isinstance(tree, ast.ClassDef)
    fields = [ast.unparse(node) for node in tree.body if isinstance(node, ast.AnnAssign)]
    bases = f"({', '.join(map(ast.unparse, tree.bases))})" if tree.bases else ""
    return "\n    ".join([f"class {tree.name}{bases}{':' if fields else ''}", *fields])


def _prose(docstring: str) -> str:
    """A docstring as Markdown: examples as code, `Raises:` as a paragraph of its own."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        if paragraph.lstrip().startswith(">>>"):
            parts.append(f"```python\n{textwrap.dedent(paragraph)}\n```")
            continue
        if paragraph.startswith("    "):  # a formula
            parts.append(f"```text\n{textwrap.dedent(paragraph)}\n```")
            continue
        if paragraph.startswith("- "):
            items = [" ".join(item.split()) for item in re.split(r"(?m)^- ", paragraph)[1:]]
            parts.append("\n".join(f"- {item}" for item in items))
            continue
        words = " ".join(line.strip() for line in paragraph.split("\n"))
        words = re.sub(r"``(.+?)``", r"`\1`", words)
        parts.append(re.sub(r"^(Raises|Returns|Args):", r"**\1**:", words))
    return "\n\n".join(parts)


def _value(thing: Any) -> str:
    """What a table or tuple of names holds."""
    return ", ".join(f"`{name}`" for name in thing)


PAGES = {"cli.md": cli_page, "python.md": python_page}

if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for file, page in PAGES.items():
        (FOLDER / file).write_text(page(), encoding="utf-8")
