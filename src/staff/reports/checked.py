"""The result of `staff check-model` as text."""

from collections.abc import Mapping
from typing import Any

from staff.reports.columns import Column, layout
from staff.words import count, rows_of


def render_checked(facts: Mapping[str, Any], *, width: int = 80) -> str:
    """Layer, differences from the oracle, speed and verdict.

    facts: as of `staff.check_model.check_model`.
    """
    layer, compared = facts["layer"], facts["comparisons"]
    kept = "" if facts["quantize"] == "none" else f", weights in {facts['quantize']}"
    where = f"on {facts['device']}, attention {facts['kernel']}{kept}"
    head = [f"Model     {facts['model']} {where}"]
    if layer:
        d_value, d_in = layer["size"]
        fused = ", the value columns of a fused layer" if layer["fused"] else ""
        head.append(f"Layer     {layer['name']}, values {d_value} × {d_in}{fused}")
    else:
        head.append(f"Gradient  of {facts['phi']}")
    head.append(f"Rows      {rows_of(facts['rows'])}, {count(facts['tokens'])} tokens")
    columns = [
        Column("fast path against plain autograd", [c["name"] for c in compared], left=True),
        Column("largest", [f"{c['largest']:.1e}" for c in compared]),
        Column("median", [f"{c['median']:.1e}" for c in compared]),
        Column("row", [str(c["row"]) for c in compared]),
        Column("rank correlation", [_rank(c["rank"]) for c in compared]),
    ]
    notes = ["  largest, median: relative differences of the norms; row: that of the largest"]
    notes += [f"  {kernel}: the model does not support it" for kernel in facts["left_out"]]
    fast, plain = (facts["tokens"] / max(facts["seconds"][k], 1e-9) for k in ("fast", "plain"))
    verdict = "agree" if facts["agrees"] else "DIFFER"
    tail = [
        f"Speed     {count(round(fast))} tokens/s in batches, {count(round(plain))} with plain "
        f"autograd: {fast / plain:.1f} times as fast",
        f"Verdict   the norms in float32 {verdict} (relative tolerance {facts['tolerance']:g})",
    ]
    return "\n".join([*head, "", *layout(columns, width, force=True), *notes, "", *tail]) + "\n"


def _rank(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
