"""The table of families as plain text."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from staff.reports.columns import Column, layout
from staff.reports.numbers import millions

DIFFERENT = "other vocabulary"


def render_families(pairs: Sequence[Mapping[str, Any]], *, width: int = 80) -> str:
    """A table a family under its name and source; where that is too wide, two lines a target.

    pairs: each with family, target, small, their parameters, same_tokenizer and source.
    """
    columns = _columns(pairs)
    lines = layout(columns, width)
    if not lines:
        return "\n\n".join(_stacked(list(group)) for group in _groups(pairs)) + "\n"
    blocks = [lines[0]]
    rows = iter(lines[1:])
    for group in _groups(pairs):
        members = list(group)
        title = f"{members[0]['family']}: {members[0]['source']}"
        blocks.append("\n".join([title, *(next(rows) for _ in members)]))
    return "\n\n".join(blocks) + "\n"


def _groups(pairs: Sequence[Mapping[str, Any]]) -> Any:
    """Neighbours of one family and source."""
    return (group for _, group in groupby(pairs, lambda pair: (pair["family"], pair["source"])))


def _columns(pairs: Sequence[Mapping[str, Any]]) -> list[Column]:
    return [
        Column("target", [pair["target"] for pair in pairs], left=True),
        Column("", [millions(pair["parameters"]) for pair in pairs]),
        Column("small", [pair["small"] for pair in pairs], left=True),
        Column("", [millions(pair["small_parameters"]) for pair in pairs]),
        Column("times", [_times(pair) for pair in pairs]),
        Column("", ["" if pair["same_tokenizer"] else DIFFERENT for pair in pairs], left=True),
    ]


def _stacked(pairs: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"{pairs[0]['family']}: {pairs[0]['source']}"]
    for pair in pairs:
        lines.append(f"  {pair['target']} {millions(pair['parameters'])}")
        lines.append(f"    small: {pair['small']} {millions(pair['small_parameters'])}")
        if not pair["same_tokenizer"]:
            lines.append(f"    {DIFFERENT}")
    return "\n".join(lines)


def _times(pair: Mapping[str, Any]) -> str:
    """How many times the small model the target is."""
    return f"{pair['parameters'] / pair['small_parameters']:.1f}"
