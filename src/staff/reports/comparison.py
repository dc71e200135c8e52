"""The demo's comparison of a coreset with a random subset, as text."""

from collections.abc import Mapping
from typing import Any

from staff.reports.columns import Column, layout
from staff.reports.numbers import duration
from staff.words import count


def render_comparison(result: Mapping[str, Any], *, width: int = 80) -> str:
    """The last two entries of what `staff.demo.run` returns, whatever the outcome."""
    methods = result["comparison"]["methods"]
    columns = [
        Column("target fine-tuned on", list(methods), left=True),
        Column("rows", [count(m["tuning"]["rows"]) if "tuning" in m else "" for m in
                        methods.values()]),
        Column("test loss", [_value(m, "loss") for m in methods.values()]),
        Column("ROUGE-L", [_value(m, "rougeL") for m in methods.values()]),
    ]  # fmt: skip
    items = next(iter(methods.values()))["rows"]
    lines = [f"Result    on {count(items)} test items", *layout(columns, width, force=True)]
    for metric, sign, unit in (("loss", -1, "nats"), ("rougeL", 1, "points")):
        name = {"loss": "Test loss", "rougeL": "ROUGE-L"}[metric]
        mean, low, high = result["comparison"]["difference"][metric]
        verdict = "no significant difference"
        if low > 0 or high < 0:
            verdict = f"STAFF is {'better' if sign * mean > 0 else 'worse'}"
        lines.append(
            f"  {name}, STAFF - random, paired: {mean:+.3f} {unit}, "
            f"95 % interval {low:+.3f} to {high:+.3f}: {verdict}."
        )
    lines.append("  One seed, one task, a tiny model: intervals are over test items only.")
    ratio = result["selection_to_tuning"]
    lines += [
        "",
        f"Ratio     selection took {duration(ratio['selection_seconds'])}; fine-tuning the target "
        f"on all rows would take {duration(ratio['estimated_tuning_seconds'])}",
        f"          (estimated at the measured {count(round(ratio['measured_tokens_per_second']))} "
        f"tokens/s): selection-to-tuning ratio {ratio['ratio']:.2f}.",
    ]
    return "\n".join(lines) + "\n"


def _value(method: Mapping[str, Any], metric: str) -> str:
    if metric not in method:
        return ""
    return f"{method[metric]['value']:.{3 if metric == 'loss' else 1}f}"
