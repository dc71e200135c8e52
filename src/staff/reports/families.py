"""The table of families as plain text."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from staff.reports.columns import Column, layout, wrap
from staff.reports.numbers import millions

DIFFERENT = "other vocabulary"


def render_families(pairs: Sequence[Mapping[str, Any]], *, width: int = 80) -> str:
    """A table a family under its name, then its sources; where too wide, two lines a target.

    pairs: each with family, target, small, their parameters, same_tokenizer, sources and what is
    unconfirmed of either. A source is a number here, and an address on a line of its own below.
    """
    columns = _columns(pairs)
    lines = layout(columns, width)
    numbers = {url: n for n, url in enumerate(_unique(pairs), start=1)}
    rows = iter(lines[1:]) if lines else None
    blocks = lines[:1]
    for family, group in groupby(pairs, lambda pair: pair["family"]):
        members = list(group)
        cited = "".join(f" [{numbers[url]}]" for url in _unique(members))
        shown = [next(rows) for _ in members] if rows else _stacked(members)
        title = wrap(f"{family}:{cited}", width, subsequent_indent="  ")
        blocks.append("\n".join([*title, *shown]))
    blocks.append("\n".join(_legend(pairs, width)))
    blocks.append("\n".join(f"[{number}] {url}" for url, number in numbers.items()))
    return "\n\n".join(blocks) + "\n"


def _legend(pairs: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """What the numbers in brackets are, and what is meant by not confirmed."""
    text = "[n]: the pages that the sizes and tokenizers of a family were read from."
    if any(_unconfirmed(pair) for pair in pairs):
        text += " Not confirmed: what none of these pages says of the target or the small model"
    if any("tied embeddings" in _unconfirmed(pair) for pair in pairs):
        text += " (tied embeddings: whether input and output share one matrix)"
    return wrap(text.rstrip(".") + ".", width)


def _unique(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The sources of some pairs, each once, in their order."""
    return list(dict.fromkeys(url for pair in pairs for url in pair["sources"]))


def _columns(pairs: Sequence[Mapping[str, Any]]) -> list[Column]:
    return [
        Column("target", [pair["target"] for pair in pairs], left=True),
        Column("", [millions(pair["parameters"]) for pair in pairs]),
        Column("small", [pair["small"] for pair in pairs], left=True),
        Column("", [millions(pair["small_parameters"]) for pair in pairs]),
        Column("size ratio", [_times(pair) for pair in pairs]),
        Column("", ["" if pair["same_tokenizer"] else DIFFERENT for pair in pairs], left=True),
        Column("not confirmed", [_unconfirmed(pair) for pair in pairs], left=True),
    ]


def _stacked(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for pair in pairs:
        lines.append(f"  {pair['target']} {millions(pair['parameters'])}")
        lines.append(f"    small: {pair['small']} {millions(pair['small_parameters'])}")
        if not pair["same_tokenizer"]:
            lines.append(f"    {DIFFERENT}")
        if _unconfirmed(pair):
            lines.append(f"    not confirmed: {_unconfirmed(pair)}")
    return lines


def _unconfirmed(pair: Mapping[str, Any]) -> str:
    """The figures of the target or the small model that no source says."""
    names = dict.fromkeys([*pair["unconfirmed"], *pair["small_unconfirmed"]])
    return ", ".join("tied embeddings" if name == "tied" else name for name in names)


def _times(pair: Mapping[str, Any]) -> str:
    """How many times the small model the target is."""
    return f"{pair['parameters'] / pair['small_parameters']:.1f}"
