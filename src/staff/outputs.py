"""What a run writes: selection.parquet, the coresets, and last manifest.json."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from staff.data.files import Source, write_records
from staff.data.raw import RawRecord
from staff.ledger import Ledger
from staff.methods import Method, score_column
from staff.progress import Progress, SilentProgress, Stage
from staff.reports.html import write_report
from staff.runs import manifest as manifests
from staff.runs.config import SelectConfig
from staff.runs.facts import coreset_facts, cut_facts, region_facts, rounds_facts
from staff.runs.proxy import proxy_facts
from staff.runs.scored import EFFORT, score_facts, score_of
from staff.runs.selection_file import write_selection
from staff.runs.settings import coreset_name
from staff.runs.store import RunFolder
from staff.selectors.compose import Wishes
from staff.types import Ints, Rows, Selection


@dataclass(slots=True)
class Run:
    """One run while it lasts: where it goes, what it costs, and the manifest in the making.

    tokens: the folder that rows and tokens lie in, its own but where others read the same.
    """

    config: SelectConfig
    folder: RunFolder
    tokens: Path
    source: Source
    ledger: Ledger
    result: dict[str, Any]
    progress: Progress | None
    say: Callable[[str], None]


def finish(
    run: Run, method: Method, selections: Mapping[str, Selection], wishes: Wishes, rows: Rows
) -> dict[str, Any]:
    """Write selection.parquet and the coresets, then manifest.json."""
    config, folder, result = run.config, run.folder, run.result
    if not folder.config.is_file():
        raise folder.removed()
    total = sum(len(selection.rows) for selection in selections.values())
    with (
        run.ledger.stage("write", remember=False) as record,
        (run.progress or SilentProgress()).stage("write", total=total) as stage,
    ):
        if score := score_of({"method": config.method, "difficulty": config.difficulty}):
            result["score"] = score_facts(
                score,
                score.values({**rows.scores, EFFORT: rows.scores.get("effort")}),
                {name: selection.rows for name, selection in selections.items()},
            )
        of_row, verified = None, np.zeros(len(rows.ids), np.bool_)
        if method.regions is not None and method.verification is not None:
            of_row = method.regions.of_row
            verified[method.verification.rows] = True
            first = next(iter(selections.values()))
            result["cut"] = cut_facts(first, rows.scores[score_column(config) or ""], config.cut)
            result["regions"] = region_facts(selections)
            result |= _verified(config, selections, rows, result["config"])
        write_selection(
            folder.selection,
            ids=rows.ids,
            rows=rows.rows,
            scores=rows.scores,
            selections=selections,
            score_target=rows.target_scores,
            score_untuned=rows.untuned_scores,
            interpolated=rows.interpolated,
            tokens=rows.lengths,
            regions=of_row,
            verified=verified,
            sources=rows.sources,
        )
        folder.remove_other_coresets(list(selections), format=config.format)
        for name, selection in selections.items():
            chosen = _these(run.source.records(), rows.rows[selection.rows])
            record.rows += write_records(
                folder.coreset(name, config.format),
                _noted(chosen, stage),
                format=config.format,
            )
        run.source.check_unchanged(result["data"]["sha256"])
    keep_of = {coreset_name(keep): keep for keep in config.keep}
    result["coresets"] = coreset_facts(
        {name: keep_of.get(name) for name in selections},
        selections,
        config.format,
        lengths=rows.lengths,
        wishes=wishes,
    )
    if wishes.group is not None:
        values = list(result["quotas"]["rows"])
        result["quotas"]["chosen"] = {
            name: dict(zip(values, _counted(wishes.group, selection, len(values)), strict=True))
            for name, selection in selections.items()
        }
    result["stages"] = run.ledger.as_dicts()
    result = manifests.plain(result)  # what is returned is as it will be read
    write_report(folder, result, run.source)
    result["files"] = manifests.hash_outputs(folder.path, folder.outputs())
    manifests.write_manifest(folder.manifest, result)
    return result


def _verified(
    config: SelectConfig,
    selections: Mapping[str, Selection],
    rows: Rows,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """What verification found of the small model, and in which rounds; {} where there is none.

    settings: those that the scores were made with.
    """
    facts: dict[str, Any] = {}
    if config.method != "staff":
        return facts
    proxy = proxy_facts(
        selections,
        small=rows.scores["effort"],
        target=rows.target_scores,
        untuned=rows.untuned_scores,
        tuned=settings.get("adapter") is not None or not settings.get("skip_finetune"),
        verify_per_region=config.verify_per_region,
        seed=config.seed,
        stored=config.scores is not None,
    )
    if proxy:
        facts["proxy"] = proxy
    first = next(iter(selections.values()))
    if first.verification is not None and first.verification.rounds:
        facts["verification"] = rounds_facts(
            first.verification.rounds, tolerance=config.verify_tolerance, cap=config.verify_cap
        )
    return facts


def _counted(group: Ints, selection: Selection, groups: int) -> list[int]:
    """How many rows of each group are chosen. group: int64 [n]."""
    found: list[int] = np.bincount(group[selection.rows], minlength=groups).tolist()
    return found


def _these(records: Iterator[RawRecord], wanted: Ints) -> Iterator[RawRecord]:
    """The records of these rows, which like the records ascend; without a set of them."""
    rest = iter(wanted)
    row = next(rest, None)
    for raw in records:
        if raw.row == row:
            yield raw
            row = next(rest, None)


def _noted(records: Iterator[RawRecord], stage: Stage) -> Iterator[RawRecord]:
    for record in records:
        yield record
        stage.advance()
