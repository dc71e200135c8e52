"""Short results as text: a dry run, a fine-tuning, an evaluation."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from staff.reports.columns import Column, layout, wrap
from staff.reports.numbers import plain
from staff.words import count


def render_plan(plan: Mapping[str, Any], *, width: int = 80) -> str:
    """What a command would do, for ``--dry-run``.

    plan: ``rows`` int; ``stages`` a list of {"name", "rows", "tokens", "reused"};
    ``files`` a list of paths; ``warnings`` sentences. Other keys with plain values are shown as
    they are.
    """
    lines = ["Nothing was run. It would run:"]
    if stages := plan.get("stages"):
        columns = [
            Column("stage", [s["name"] for s in stages], left=True),
            Column("rows", [count(s["rows"]) if s.get("rows") else "" for s in stages]),
            Column("tokens", [count(s["tokens"]) if s.get("tokens") else "" for s in stages]),
            Column("", ["reused" if s.get("reused") else "" for s in stages], left=True),
        ]
        lines += layout(columns, width, force=True)
    lists = ("stages", "files", "warnings")
    facts = {k.replace("_", " "): plain(v) for k, v in plan.items() if k not in lists}
    wide = max((len(key) for key in facts), default=0) + 2
    lines += [f"{key.capitalize():<{wide}}{value}" for key, value in facts.items()]
    if files := plan.get("files"):
        lines += ["It would write:", *(f"  {path}" for path in files)]
    lines += warning_lines(plan.get("warnings", ()), width=width)
    return "\n".join(lines) + "\n"


def warning_lines(warnings: Sequence[str], *, width: int) -> list[str]:
    """Under a heading, each indented like an item of a list; nothing if there are none."""
    lines = [
        line
        for text in warnings
        for line in wrap(f"- {text}", width, initial_indent="  ", subsequent_indent="    ")
    ]
    return ["Warnings", *lines] if lines else []


def render_facts(facts: Mapping[str, Any]) -> str:
    """One name and value per line, for the results of `finetune` and `evaluate`.

    Nested mappings are indented; "interval", two numbers, is one of 95 %.
    """
    return "\n".join(_fact_lines(facts, "")) + "\n"


def _fact_lines(facts: Mapping[str, Any], indent: str) -> Iterable[str]:
    single = {
        "95 % interval" if k == "interval" else k: v
        for k, v in facts.items()
        if not isinstance(v, Mapping) and v is not None
    }
    wide = max((len(str(key)) for key in single), default=0) + 2
    for key, value in single.items():
        yield f"{indent}{str(key).replace('_', ' '):<{wide}}{plain(value)}"
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield f"{indent}{str(key).replace('_', ' ')}"
            yield from _fact_lines(value, indent + "  ")
