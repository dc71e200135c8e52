"""Parts of manifest.json made from a run's results (schema in docs/formats.md)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from staff.data.files import Source
from staff.data.prepare import Prepared
from staff.runs.settings import flag
from staff.selectors.compose import Wishes
from staff.selectors.draw import TOP_UP
from staff.selectors.stability import stability
from staff.types import Floats, Ints, Round, Selection

NAMED = 100  # rows without a finite score that a manifest names; it counts all


def told_of_data(error: Exception, data: Mapping[str, Any], advice: str) -> str:
    """Why the data of a manifest cannot be opened, with advice if they are named from elsewhere."""
    path = Path(data["path"])
    if path.is_absolute() or path.exists() or data.get("revision"):  # the last: of the Hub
        return str(error)
    end = "" if str(error).endswith((".", "?")) else "."
    return f"{error}{end} The run names it from the folder that it was started in: {advice}."


def data_facts(source: Source, sha256: str, prepared: Prepared) -> dict[str, Any]:
    """The training data as it was read."""
    revision = source.commit()
    return {
        "path": source.name,
        **({"files": len(source.files)} if len(source.files) > 1 else {}),
        **({"revision": revision} if revision else {}),
        "format": prepared.format,
        "reading": {name: value for name, value in asdict(prepared.options).items() if value},
        "sha256": sha256,
        "rows_read": prepared.rows_read,
        "rows_usable": prepared.usable,
        "rejected": prepared.rejected,
        "truncated": prepared.truncated,
        "duplicates": prepared.duplicates,
    }


def duplicates_fate(config: Mapping[str, Any]) -> str:
    """What became of rows with the contents of an earlier one.

    >>> duplicates_fate({}), duplicates_fate({"on_duplicate": "skip"})
    ('kept', 'among those skipped')
    """
    return "among those skipped" if config.get("on_duplicate") == "skip" else "kept"


def trust_remarks(config: Mapping[str, Any]) -> list[str]:
    """What the models were allowed beyond being read, in words; empty if it was nothing.

    >>> trust_remarks({"allow_pickle": True, "trust_remote_code": False})
    ['pickled weights were allowed (--allow-pickle)']
    """
    words = {
        "allow_pickle": "pickled weights were allowed (--allow-pickle)",
        "trust_remote_code": "the models' own code was allowed to run (--trust-remote-code)",
    }
    return [text for name, text in words.items() if config.get(name)]


TESTED = "cpu"  # where the project's tests and benchmarks have run
UNTESTED = ("padding_free", "fsdp")  # there alone, too, of what is meant for GPUs


def untested(config: Any, device: str) -> list[str]:
    """What of a run no test of this project has done; empty on a CPU. device: its type.

    >>> from types import SimpleNamespace
    >>> untested(SimpleNamespace(fsdp=True, attention="flash_attention_2"), "cuda")
    ['cuda', '--fsdp', '--attention flash_attention_2']
    """
    if device == TESTED:
        return []
    named = [flag(name) for name in UNTESTED if getattr(config, name, False)]
    kernel = getattr(config, "attention", "auto")
    return [device, *named, *([f"--attention {kernel}"] if kernel != "auto" else [])]


def not_finite_facts(
    ids: Sequence[str], rows: Ints, scores: Mapping[str, Floats], positions: Ints | None = None
) -> dict[str, Any] | None:
    """The rows whose score is not finite, among those at `positions` (of n; all by default).

    ids: [n]. rows: int64 [n], in the input. scores: float64 [n] each. None if there are none.
    """
    asked = np.arange(len(ids)) if positions is None else positions
    if not scores:
        return None
    bad = asked[np.any([np.isnan(values[asked]) for values in scores.values()], axis=0)]
    if not len(bad):
        return None
    named = [{"row": int(rows[i]), "id": ids[i]} for i in bad[:NAMED].tolist()]
    return {"rows": len(bad), "first": named}


def cut_facts(selection: Selection, scores: Floats, fraction: float) -> dict[str, Any]:
    """How much was cut, and the highest score that stayed."""
    assert selection.regions is not None
    of_row = selection.regions.of_row
    return {
        "fraction": fraction,
        "rows": int(np.count_nonzero(of_row == -1)),
        "threshold": float(scores[of_row >= 0].max()),
    }


def region_facts(selections: Mapping[str, Selection]) -> list[dict[str, Any]]:
    """One entry a region, easiest first, with its budget in every coreset."""
    first = next(iter(selections.values()))
    regions, verification = first.regions, first.verification
    assert regions is not None
    assert verification is not None
    budgets = {name: s.budget.count for name, s in selections.items() if s.budget is not None}
    facts = []
    for i in range(regions.count):
        ratio, interval = verification.ratio[i], verification.interval[i]
        facts.append(
            {
                "lower": regions.edges[i, 0],
                "upper": regions.edges[i, 1],
                "size": int(regions.sizes[i]),
                "verified": int(verification.count[i]),
                "ratio": None if np.isnan(ratio) else ratio,
                "interval": None if np.isnan(interval).any() else interval.tolist(),
                "flagged": bool(verification.flagged[i]),
                "budgets": {name: int(count[i]) for name, count in budgets.items()},
            }
        )
    return facts


def rounds_facts(rounds: Sequence[Round], *, tolerance: float, cap: int) -> dict[str, Any]:
    """What `--verify-per-region auto` did: rows and error after every round."""
    return {
        "stable": rounds[-1].error <= tolerance,
        "tolerance": tolerance,
        "cap": cap,
        "rounds": [{"rows": one.rows, "error": one.error} for one in rounds],
    }


def coreset_facts(
    keep_of: Mapping[str, float | None],
    selections: Mapping[str, Selection],
    format: str,
    *,
    lengths: Ints | None = None,
    wishes: Wishes | None = None,
) -> list[dict[str, Any]]:
    """One entry a coreset file, in the order asked for. lengths: int [n], tokens a row."""
    return [
        {
            "name": name,
            "keep": keep_of[name],
            "total": len(selection.rows),
            "tokens": None if lengths is None else int(lengths[selection.rows].sum()),
            "top_up": 0 if selection.budget is None else selection.budget.top_up,
            "from_cut": from_cut(selection),
            "included": 0 if wishes is None else len(wishes.include),
            "path": f"coreset-{name}.{format}",
        }
        for name, selection in selections.items()
    ]


def from_cut(selection: Selection) -> int:
    """How many dropped rows were taken all the same, because the others do not fill the coreset.

    They are part of a budget's top-up, but not drawn at random.
    """
    taken = selection.reason == TOP_UP
    if selection.regions is not None:
        taken = taken & (selection.regions.of_row == -1)
    return int(np.count_nonzero(taken))


def stability_facts(
    by_seed: Sequence[Mapping[str, Selection]], wishes: Wishes
) -> dict[str, dict[str, float]]:
    """Coreset name -> how far its rows agree over seeds (mean Jaccard index), and by chance.

    Chance has the same rows to include and to choose from.
    """
    free, fixed = int(np.count_nonzero(wishes.free)), len(wishes.include)
    facts = {}
    for name in by_seed[0]:
        coresets = [selections[name].rows for selections in by_seed]
        facts[name] = {
            "seeds": len(by_seed),
            **stability(coresets, free, fixed=fixed)._asdict(),
        }
    return facts
