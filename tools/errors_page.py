"""Write docs/errors.md from the bad inputs in tests/errors: python tools/errors_page.py"""

import runpy
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "errors.md"
ORDER = (
    *("data_files", "formats", "configs", "flags", "model_folders", "run_folders", "adapters"),
)
HEAD = """\
# Bad inputs and their error messages

<!-- run by tests/errors -->

{cases} bad inputs and their {messages} messages. [tests/errors](../tests/errors) makes each of them
and checks that it is refused with exactly this exit code and message, without a traceback, that
nothing is written, and that no existing file is changed. `PATH` is the folder in which the command
is started. What the exit codes mean: [files and exit codes](formats.md#exit-codes).

That folder contains `train.jsonl` (eight rows of `prompt` and `response`), `test.jsonl` (one), and
the embedded models as `small` and `target`. Where a case names a run (`run`, of the method staff),
scores (`scored`) or an adapter of the small model (`adapter`), it is complete except for the fault
described.

This page is written by `python tools/errors_page.py`; a test compares it with the tests.
"""

Case = tuple[str, Any, str, int, str]  # how it is made, files, command, exit code, message


def groups() -> dict[str, list[Case]]:
    """Title of a group -> its cases."""
    found = {}
    sys.path.insert(0, str(ROOT / "tests" / "errors"))  # what the cases share: changes.py
    for name in ORDER:
        module = runpy.run_path(str(ROOT / "tests" / "errors" / f"test_{name}.py"))
        found[module["GROUP"]] = module["CASES"]
    return found


def page(found: dict[str, list[Case]]) -> str:
    """The page as text."""
    cases = [case for group in found.values() for case in group]
    head = HEAD.format(cases=len(cases), messages=len({case[4] for case in cases}))
    return "\n".join([head, *(_section(title, group) for title, group in found.items())])


def _section(title: str, cases: list[Case]) -> str:
    return "\n".join([f"## {title}", "", *map(_entry, cases)])


def _entry(case: Case) -> str:
    made, _, command, code, message = case
    lines = f"$ {command}\nerror: {message}".encode(errors="replace").decode().split("\n")
    shown = "".join(f"    {line}\n" for line in lines)
    return f"**{made}**: exit code {code}\n\n{shown}"


if __name__ == "__main__":
    PAGE.write_text(page(groups()), encoding="utf-8")
