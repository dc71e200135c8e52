"""A plan as plain text: the stages, what selection costs and saves, the warnings."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from staff.reports.columns import Column, layout, wrap
from staff.reports.facts import warning_lines
from staff.reports.numbers import brief, memory, millions, operations, significant
from staff.runs.facts import duplicates_fate
from staff.words import count, counted, rows_of

Plan = Mapping[str, Any]
INDENT = " " * 10
COLUMNS = (
    "padded: tokens with the padding of batches, which are computed, too. work: floating-point "
    "operations."
)
UNCONFIRMED = {"flops": "speed", "memory": "memory"}


def render_costs(plan: Plan, *, width: int = 80) -> str:
    """What `staff plan` prints; plan: what `staff.planning.estimate` returns."""
    blocks = [
        _facts(plan, width),
        [*_stages(plan["stages"], width), *wrap(COLUMNS, width)],
        _worth(plan, width),
        warning_lines(plan["warnings"], width=width),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _facts(plan: Plan, width: int) -> list[str]:
    data = plan["data"]
    facts = [
        f"{counted(data['usable_rows'], 'usable row')} of {count(data['rows'])}",
        f"{count(data['tokens'])} tokens (median {count(data['median'])}, "
        f"longest {count(data['longest'])})",
        *([f"{count(data['truncated'])} truncated"] if data["truncated"] else []),
        *([_duplicates(data)] if data["duplicates"] else []),
    ]
    lines = _labelled("Data", f"{data['path']}: {', '.join(facts)}", width)
    for role, model in plan["models"].items():
        size = f"{millions(model['parameters'])} parameters"
        size += "" if model["quantize"] == "none" else f", linear layers in {model['quantize']}"
        lines += _labelled(role.capitalize(), f"{model['path']} ({size})", width)
    lines += _labelled("Device", _device(plan["device"]), width)
    return lines + _processes(plan["processes"], width)


def _duplicates(data: Mapping[str, Any]) -> str:
    return f"{counted(data['duplicates'], 'duplicate')} ({duplicates_fate(data)})"


def _processes(processes: Mapping[str, int], width: int) -> list[str]:
    """Who shares the work; nothing if one process does it all."""
    tuning, scoring = processes["tuning"], processes["scoring"]
    each = "memory per device, times of the process with the most work"
    if tuning > 1:
        return _labelled("Processes", f"{tuning} with torchrun, not for reading; {each}", width)
    if scoring > 1:
        return _labelled("Workers", f"{scoring} of Ray, for scoring only; {each}", width)
    return []


def _device(device: Mapping[str, Any]) -> str:
    bits = f"{device['bits']} bits per number"
    if device["probe"]:
        return f"{device['name']}, {bits}; times measured on a few real batches of each stage"
    if device["flops"] is None:
        return f"{device['name']}, {bits}; for times give --probe or a --device, e.g. h100-80gb"
    told = f"{operations(device['flops'])}/s peak, {memory(device['memory'])}"
    assumed = f"assumed: {device['utilisation']:.0%} of the peak (--utilisation)"
    if device["bits"] > 16:
        assumed = "no times, because the peak is for bfloat16"
    hosts = ", ".join(urlsplit(url).netloc for url in device["source"].split())
    names = [UNCONFIRMED[name] for name in device["unconfirmed"]]
    doubt = f"; its {' and '.join(names)} not confirmed" if names else ""
    return f"{device['name']}, {bits}, {told} (figures from {hosts}{doubt}); {assumed}"


def _stages(stages: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """One table; if it is too wide, two: rows, memory and time, and what they come from."""
    shown = [stage for stage in stages if stage["kind"] != "select"]

    def columns(*, short: bool) -> dict[str, Column]:
        names = [s["name"].partition(",")[0] if short else s["name"] for s in shown]
        most = ["≤ " if short and s["name"].endswith("at most") else "" for s in shown]
        rows = ["" if s["kind"] == "start" else count(s["rows"]) for s in shown]
        padded = [s["padded_tokens"] for s in shown]
        return {
            "stage": Column("stage", names, left=True),
            "rows": Column("rows", [m + number for m, number in zip(most, rows, strict=True)]),
            "tokens": Column("tokens", [count(s["tokens"]) if s["tokens"] else "" for s in shown]),
            "padded": Column("padded", [count(value) if value else "" for value in padded]),
            "work": Column("work", [operations(s["flops"]) if s["flops"] else "" for s in shown]),
            "memory": Column("memory", [memory(s["memory"]) if s["memory"] else "" for s in shown]),
            "time": Column(
                "time", ["" if s["seconds"] is None else brief(s["seconds"]) for s in shown]
            ),
        }

    for short in (False, True):
        if lines := layout(list(columns(short=short).values()), width):
            return lines
    found = columns(short=True)
    first = [found[name] for name in ("stage", "rows", "memory", "time")]
    second = [found[name] for name in ("stage", "tokens", "padded", "work")]
    return [*layout(first, width, force=True), "", *layout(second, width, force=True)]


def _worth(plan: Plan, width: int) -> list[str]:
    unit, measured = plan["unit"], plan["device"]["probe"]
    amount = brief if unit == "seconds" else operations
    cost, whole = plan["selection"][unit], plan["tuning"][unit]
    text = (
        f"Selection costs {amount(cost)}, {significant(plan['ratio'])} times as much as tuning the "
        f"target on all rows ({amount(whole)})."
    )
    if unit == "seconds":
        text += (
            " Both include start, reading and loading models."
            if measured
            else " Neither includes start, reading and loading models, which on small data take "
            "longer than the rest: --probe measures them."
        )
    coresets = plan["coresets"]
    columns = [
        Column("coreset", [coreset["name"] for coreset in coresets]),
        Column("tuning", [amount(coreset["cost"]) for coreset in coresets]),
        Column("saved", [amount(coreset["saved"]) for coreset in coresets]),
        Column("left", [amount(coreset["left"]) for coreset in coresets]),
        Column("pays off from", [_rows(coreset["rows"]) for coreset in coresets], left=True),
        Column("or", [_epochs(coreset["epochs"]) for coreset in coresets], left=True),
    ]
    whole = layout(columns, width)
    tables = whole or [
        *layout(columns[:4], width, force=True),
        "",
        *layout([columns[0], *columns[4:]], width, force=True),
    ]
    return [*wrap(text, width), *tables, *wrap("left: saved minus the cost of selection.", width)]


def _rows(value: int | None) -> str:
    """From how many rows on.

    >>> _rows(1), _rows(1200), _rows(None)
    ('1 row', '1,200 rows', 'never')
    """
    return "never" if value is None else rows_of(value)


def _epochs(value: float | None) -> str:
    if value is None:
        return "never"
    return f"{value:.1f} epochs" if value >= 0.95 else f"{value:.1g} epochs"


def _labelled(label: str, text: str, width: int) -> list[str]:
    return wrap(
        text,
        max(width, 40),
        initial_indent=f"{label:<10}",
        subsequent_indent=INDENT,
        break_long_words=False,
    )
