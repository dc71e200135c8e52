"""A comparison of methods as text and as Markdown."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress
from typing import Any

from staff.reports.columns import Column, layout, wrap
from staff.reports.findings import joined, zeros
from staff.reports.numbers import duration
from staff.reports.scales import WHOLE
from staff.runs.compare_cells import UNTUNED
from staff.runs.facts import trust_remarks
from staff.visible import visible
from staff.words import count, counted, rows_of

Row = Mapping[str, Any]
TITLES = {
    "loss": "Test loss (nats, lower is better)",
    "rougeL": "ROUGE-L (0 to 100)",
    "bleu": "BLEU (0 to 100)",
    "exact": "Exact match (share of items)",
}
METRICS = {"loss": "Test loss", "rougeL": "ROUGE-L", "bleu": "BLEU", "exact": "Exact match"}
LOWER_IS_BETTER = frozenset({"loss"})
HARDLY = 0.05  # of the untuned target's loss, a convention: so little is no fine-tuning to compare
# The last three would become links: to an address with a scheme, without one, and of a person.
MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+!|~&$-]|:(?=//)|(?<=www)\.|@)", re.IGNORECASE)


def render_compared(result: Mapping[str, Any], *, folder: str, width: int = 80) -> str:
    """What compare.json says, at most `width` columns wide wherever words allow."""
    rows = result["results"]
    metrics = metrics_of(rows)
    short = not all(layout(metric_columns(rows, m, short=False), width) for m in metrics)
    blocks = [
        [TITLES[metric], *_fitted(metric_columns(rows, metric, short=short), width)]
        for metric in metrics
    ]
    blocks.append(["Cost (means over seeds)", *_fitted(cost_columns(rows), width)])
    blocks.append([line for note in notes(result) for line in wrap(note, max(20, width))])
    files = [name for name in (result.get("files") or {}) if name.startswith("results.")]
    files += ["report.html", "compare.json"]  # the page is not hashed, so not listed
    blocks.append([f"Files in {folder}/", *(f"  {name}" for name in files)])
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def markdown_compared(result: Mapping[str, Any]) -> str:
    """The same as Markdown: paths of the data and models are text, whatever is in them."""
    config, rows = result["config"], result["results"]
    named = [(name, config.get(name)) for name in ("data", "test", "small", "target")]
    lines = ["# Comparison of selection methods", ""]
    lines += [f"- {name}: {escape(str(value))}" for name, value in named if value is not None]
    for metric in metrics_of(rows):
        lines += ["", f"## {TITLES[metric]}", ""]
        lines += _pipes(metric_columns(rows, metric, short=False))
    lines += ["", "## Cost (means over seeds)", "", *_pipes(cost_columns(rows)), ""]
    return "\n".join([*lines, *(f"{note}\n" for note in notes(result))])


def escape(text: str) -> str:
    r"""Text in Markdown: no markup, no links, no line breaks, no control characters.

    >>> print(escape("a|b <i>\nc"))
    a\|b \<i\> c
    """
    return MARKUP.sub(r"\\\1", visible(" ".join(text.split())))


def metrics_of(rows: Sequence[Row]) -> list[str]:
    """The metrics in their order."""
    return list(dict.fromkeys(row["metric"] for row in rows))


def metric_columns(rows: Sequence[Row], metric: str, *, short: bool) -> list[Column]:
    """Method, size, value and the differences of one metric; `short` gives the longer halves."""
    rows = [row for row in rows if row["metric"] == metric]

    def shown(row: Row, name: str, *, signed: bool) -> str:
        prefix = f"{name}_" if name else ""
        value = row[f"{prefix}difference" if name else "value"]
        return "" if value is None else _interval(
            metric, value, row[f"{prefix}low"], row[f"{prefix}high"], signed=signed, short=short
        )  # fmt: skip

    def differs(row: Row, name: str) -> str:
        to = f" ({row['best']})" if name == "best" else ""
        text = shown(row, name, signed=True)
        return f"{text} {row[f'{name}_verdict']}{to}" if text else ""

    columns = [
        *_names(rows),
        Column(metric, [shown(row, "", signed=False) for row in rows], left=True),
        Column("- random", [differs(row, "random") for row in rows], left=True),
    ]
    if {row["best"] for row in rows} - {None, "random"}:  # else it says the same once more
        columns.append(Column("- best baseline", [differs(row, "best") for row in rows], left=True))
    return [column for column in columns if any(column.cells)]


def cost_columns(rows: Sequence[Row]) -> list[Column]:
    """Seconds of selection and tuning by method and size, and their ratio.

    Of a coreset of the user's own, how long choosing took is not known: "-".
    """
    rows = [row for row in rows if row["metric"] == rows[0]["metric"]]

    def shown(name: str, text: Callable[[float], str] = duration) -> list[str]:
        if all(row[name] is None for row in rows):
            return [""] * len(rows)
        blanks = ["" if has_cost(row) else "-" for row in rows]
        return [
            blank if row[name] is None else text(row[name])
            for row, blank in zip(rows, blanks, strict=True)
        ]

    columns = [
        *_names(rows),
        Column("rows", [count(row["rows"]) if row["rows"] else "" for row in rows]),
        Column("selection", shown("selection_seconds")),
        Column("tuning", shown("tuning_seconds")),
        Column("ratio", shown("selection_to_tuning", "{:.3f}".format)),
    ]
    return [column for column in columns if any(column.cells)]


def has_cost(row: Row) -> bool:
    """Whether all that a row cost is known; what was not selected had no cost of selection."""
    return row["keep"] is None or row["selection_seconds"] is not None


def notes(result: Mapping[str, Any]) -> list[str]:
    """What a reader needs to know about the tables."""
    config, first = result["config"], result["results"][0]
    seeds, items = config["seeds"], counted(first["items"], "test item")
    if first["items"] == 1:
        over = (
            "One test item has no interval and says nothing of others: every difference is a tie."
        )
    elif seeds == 1:
        over = (
            f"One seed: intervals are 95 %, over {items} only. With other seeds, a win "
            "or loss may well be a tie, or the other way round: use three or more."
        )
    else:
        over = f"Intervals are 95 %, over {seeds} seeds and {items}."
    if seeds == 2 and first["items"] > 1:
        over += " Two seeds say little about the variation between seeds: use three or more."
    judged = (
        " Differences are paired; it is a tie if the interval contains 0. Where there is no true "
        "difference, one in twenty is still expected to look like a win or a loss."
    )
    full = f"; {WHOLE['full']}: tuned on all of them" if config["full"] else ""
    said = [
        f"untuned: the target as it is{full}.",
        over + (judged if first["items"] > 1 else " Differences are paired."),
        *_of_own(config),
        *_of_best(result["results"]),
        *_of_zeros(result["results"]),
        "Ratio: seconds of selection divided by seconds of tuning on all rows, both measured."
        if config["full"]
        else "No tuning on all rows (--no-full), so no selection-to-tuning ratio.",
    ]
    remarks = [*row_remarks(result), *_selection_remarks(config), *trust_remarks(config)]
    said += [f"Note: {remark}." for remark in remarks]
    return [*said, *_no_leak(result), *warnings_of(result)]


def _of_own(config: Mapping[str, Any]) -> list[str]:
    """What is known of coresets of the user's own, and what is not."""
    own: Mapping[str, str] = config.get("own") or {}
    if not own:
        return []
    said = f"{joined(list(own))}: chosen elsewhere (--own), so the cost of selection is not known"
    fixed = [name for name, file in own.items() if "{seed}" not in file]
    if fixed and config["seeds"] > 1:
        which = "" if len(fixed) == len(own) else f" {joined(fixed)}:"
        said += f";{which} one file for all seeds, which differ in fine-tuning only"
    return [f"{said}."]


def _of_best(rows: Sequence[Row]) -> list[str]:
    """A caveat on differences from the best baseline, if there was more than one to choose from."""
    baselines = {row["method"] for row in rows if row["keep"] is not None} - {"staff"}
    if len(baselines) < 2 or not {row["best"] for row in rows} - {None, "random"}:
        return []
    return [
        "The best baseline was picked on these test items, so it is best partly by chance: losses "
        "to it are overstated, wins understated."
    ]


def _of_zeros(rows: Sequence[Row]) -> list[str]:
    """That a metric which is 0 throughout says nothing."""
    named = [METRICS[metric] for metric in zeros(rows)]
    return [f"{name} is 0 for every method: its ties say nothing." for name in named]


def row_remarks(result: Mapping[str, Any]) -> list[str]:
    """Rows of the training and the test data that were skipped or truncated."""
    test = result["cells"][0]["test"] if result.get("cells") else {}  # the same for every cell
    data = result.get("data") or {}
    skipped = "skipped"
    if (result.get("config") or {}).get("on_duplicate") == "skip" and data.get("duplicates"):
        skipped += f", {count(data['duplicates'])} of them duplicates"
    return [
        f"{rows_of(facts[key])} of the {name} data {words}"
        for name, facts, words_skipped in (("training", data, skipped), ("test", test, "skipped"))
        for key, words in (("rejected", words_skipped), ("truncated", "truncated"))
        if facts.get(key)
    ]


def _selection_remarks(config: Mapping[str, Any]) -> list[str]:
    """What of the settings makes a cost or a baseline another than one would think."""
    remarks = []
    if config.get("cache"):
        remarks.append(
            "adapters and scores from --cache count only with the time to copy them, so selection "
            "may have cost more than shown"
        )
    cutting = [name for name in ("ccs", "d2") if name in config.get("methods", ())]
    if cutting and config.get("cut") == 0:
        verb = "drops" if len(cutting) == 1 else "drop"
        remarks.append(
            f"with a cut of 0 (--cut 0, --preset paper) {' and '.join(cutting)} {verb} no row, "
            "although their papers drop the hardest"
        )
    return remarks


def warnings_of(result: Mapping[str, Any]) -> list[str]:
    """Why the tables may say less than they seem to."""
    rows = result["results"]
    return list(filter(None, [leak_warning(result), size_warning(rows), tuning_warning(rows)]))


def size_warning(rows: Sequence[Row]) -> str:
    """At which sizes methods were not tuned on as many rows; empty if at none.

    A random draw without a model knows nothing of rows that the target's tokenizer cannot use.
    """
    by_size: dict[float, dict[str, int]] = {}
    for row in rows:
        if row["keep"] is not None:
            by_size.setdefault(row["keep"], {})[row["method"]] = row["rows"]
    unlike = {keep: found for keep, found in by_size.items() if len(set(found.values())) > 1}
    if not unlike:
        return ""
    said = "; ".join(
        f"{', '.join(f'{method} {count(n)}' for method, n in found.items())} at keep {keep:g}"
        for keep, found in unlike.items()
    )
    return (
        f"Warning: coresets of one size were not tuned on as many rows ({said}): those that the "
        "target cannot use were skipped, so differences show the size as well. Leave such rows out "
        "of the data."
    )


def tuning_warning(rows: Sequence[Row]) -> str:
    """At which sizes the loss is nearly the untuned target's, by any method; empty if at none."""
    losses = [row for row in rows if row["metric"] == "loss"]
    untuned = next((row["value"] for row in losses if row["method"] == UNTUNED), None)
    if untuned is None:
        return ""
    by_size: dict[float, list[float]] = {}
    for row in losses:
        if row["keep"] is not None:
            by_size.setdefault(row["keep"], []).append(row["value"])
    still = {
        keep: values
        for keep, values in by_size.items()
        if all(abs(value - untuned) < HARDLY * untuned for value in values)
    }
    if not still:
        return ""
    where = "" if len(still) == len(by_size) else f" at keep {joined([f'{k:g}' for k in still])}"
    ends = [value for values in still.values() for value in values]
    low, high = (value_text("loss", end(ends)) for end in (min, max))
    return (
        f"Warning: fine-tuning hardly moved the test loss{where}: "
        f"{value_text('loss', untuned)} untuned, {low if low == high else f'{low} to {high}'} "
        f"tuned, which is less than {100 * HARDLY:g} % apart. Where training changes so little, "
        "methods can hardly differ, and a tie says nothing of them: raise --learning-rate or "
        "--epochs."
    )


def _no_leak(result: Mapping[str, Any]) -> list[str]:
    """That no test prompt occurs in the training data; nothing if one does, or nobody looked."""
    leaks = result.get("leaks") or {}
    if leaks.get("rows") or not leaks.get("of"):
        return []
    of = count(leaks["of"])
    return [f"No test prompt occurs word for word in the training data (0 of {of})."]


def leak_warning(result: Mapping[str, Any]) -> str:
    """How many test prompts occur in the training data; empty if none."""
    leaks = result.get("leaks") or {}
    if not leaks.get("rows"):
        return ""
    share = 100 * leaks["rows"] / leaks["of"]
    occur = "occurs" if leaks["rows"] == 1 else "occur"
    return (
        f"Warning: {count(leaks['rows'])} of {counted(leaks['of'], 'test prompt')} "
        f"({share:.3g} %) {occur} in the training data."
    )


def value_text(metric: str, value: float, *, signed: bool = False) -> str:
    """A value, or with its sign a difference, in as many digits as the metric deserves.

    >>> value_text("loss", 1.23456), value_text("rougeL", 1.23456, signed=True)
    ('1.235', '+1.23')
    """
    return f"{value:{'+' if signed else ''}.{_digits(metric)}f}"


def _names(rows: Iterable[Row]) -> list[Column]:
    rows = list(rows)
    keeps = ["" if row["keep"] is None else f"{row['keep']:g}" for row in rows]
    return [
        Column(
            "method", [WHOLE.get(row["method"]) or str(row["method"]) for row in rows], left=True
        ),
        Column("keep", keeps, left=True),
    ]


def _interval(
    metric: str, value: float, low: float | None, high: float | None, *, signed: bool, short: bool
) -> str:
    if low is None or high is None:  # of one test item
        return value_text(metric, value, signed=signed)
    shown, *ends = (value_text(metric, number, signed=signed) for number in (value, low, high))
    if short:  # of an interval that is longer on one side, that one
        return f"{shown} ±{value_text(metric, max(high - value, value - low))}"
    return f"{shown} [{', '.join(ends)}]"


def _digits(metric: str) -> int:
    return 3 if metric in ("loss", "exact") else 2


def _fitted(columns: Sequence[Column], width: int) -> list[str]:
    """A table, in as many pieces as the width asks for; lines that say nothing are left out."""
    names = [column for column in columns if column.title in ("method", "keep")]
    left = [column for column in columns if column not in names]
    lines: list[str] = []
    while left:
        fits = next((n for n in range(len(left), 1, -1) if layout([*names, *left[:n]], width)), 1)
        said = [any(cells) for cells in zip(*(c.cells for c in left[:fits]), strict=True)]
        piece = [
            Column(c.title, list(compress(c.cells, said)), c.left) for c in (*names, *left[:fits])
        ]
        lines += layout(piece, width, force=True)
        left = left[fits:]
    return lines


def _pipes(columns: Sequence[Column]) -> list[str]:
    """A Markdown table; its cells are our own words and numbers."""
    rule = "|".join(" --- " if column.left else " ---: " for column in columns)
    body = [
        "| " + " | ".join(row) + " |"
        for row in zip(*(column.cells for column in columns), strict=True)
    ]
    head = "| " + " | ".join(column.title for column in columns) + " |"
    return [head, f"|{rule}|", *body]
