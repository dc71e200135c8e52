"""The whole job, in the paper's order: this file owns what happens when.

select:   read -> fine-tune small -> score small -> cut, stratify, verify on the target,
          allocate, draw -> write -> manifest (last: its existence means done)
reselect: the same from the stored scores of an earlier run, without any model
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from staff import stages
from staff.data.files import Source, open_source, write_records
from staff.data.raw import RawRecord
from staff.errors import ConfigError, DataError, RunError
from staff.ledger import Ledger
from staff.progress import Progress, SilentProgress, Stage
from staff.reports.html import write_report
from staff.rng import keys_of_ids
from staff.runs import manifest as manifests
from staff.runs.config import SelectConfig
from staff.runs.facts import coreset_facts, cut_facts, data_facts, region_facts
from staff.runs.selection_file import SIGNALS, read_selection, write_selection
from staff.runs.settings import coreset_name
from staff.runs.store import RunFolder, write_atomic
from staff.selectors import select_random, select_staff, total_of
from staff.types import Bools, Floats, Ints, Selection

Say = Callable[[str], None]


def silent(_: str) -> None:
    """Say nothing."""


def select(
    config: SelectConfig, *, progress: Progress | None = None, say: Say = silent
) -> dict[str, Any]:
    """Choose coresets and write the run folder (docs/formats.md); return its manifest.

    Raises `StaffError` children; whatever was finished is kept for the next start.
    """
    folder = RunFolder(config.folder)
    with folder.lock():
        folder.start(config, overwrite=config.overwrite)
        try:
            if config.method == "random":
                return _random(config, folder, progress)
            return _staff(config, folder, progress, say)
        finally:
            shutil.rmtree(folder.path / stages.TOKENS, ignore_errors=True)


def requested_totals(config: SelectConfig, n: int) -> dict[str, int]:
    """Coreset name -> number of rows, in the order asked for, of n usable rows.

    Raises:
        ConfigError: a total above n, or a fraction that keeps no row.
    """
    totals = {coreset_name(keep): total_of(keep, n) for keep in config.keep}
    for total in config.total:
        if total > n:
            raise ConfigError(f"--total {total}: the data has only {n} usable rows")
        totals[f"n{total}"] = total
    return totals


def _staff(
    config: SelectConfig, folder: RunFolder, progress: Progress | None, say: Say
) -> dict[str, Any]:
    small, target = str(config.small), str(config.target)
    ledger = Ledger(folder.path, say, afresh=config.overwrite)
    result = manifests.begin("select", config.model_dump(mode="json"), seed=config.seed)
    source = open_source(str(config.data))

    with ledger.stage("read", remember=False) as record:
        for model in (small, target):  # sooner here than after hours of fine-tuning
            stages.check_phi(config, model)
        result["models"] = models = stages.model_facts(
            small=small, target=target, adapter=config.adapter, progress=progress
        )
        tokenisers = stages.tokenisers((small, target), max_length=config.max_length)
        for role, tokeniser in zip(("small", "target"), tokenisers, strict=True):
            models[role]["tokenizer"] = tokeniser.fingerprint
        data_hash = source.content_hash()
        prepared = stages.read(config, source, tokenisers, folder=folder.path, progress=progress)
        record.rows, record.tokens = prepared.rows_read, prepared.tokens[0]
    result["data"] = data_facts(str(config.data), data_hash, prepared)
    totals = requested_totals(config, prepared.usable)
    folder.begin_writing(config)  # until here an earlier run's files were left alone
    stages.set_aside(prepared, folder.rejected)
    tokens_small, tokens_target = prepared.stores
    ids = prepared.ids

    adapter = config.adapter
    if adapter is None and not config.skip_finetune:
        with ledger.stage("fine-tune small") as record:
            adapter = stages.finetune_small(
                config,
                tokens_small,
                model_hash=models["small"]["hash"],
                out=folder.adapter,
                record=record,
                progress=progress,
            )

    with ledger.stage("score small") as record:
        small_scores = stages.score(
            config,
            tokens_small,
            model=small,
            adapter=adapter,
            facts=models["small"],
            out=folder.scores_small,
            name="score small",
            record=record,
            progress=progress,
        )

    target_scores = np.full(len(ids), np.nan)

    with ledger.stage("verify on target") as verifying:

        def verify(rows: Ints) -> Floats:
            """Score these rows, and only these, on the target as it is."""
            table = stages.score(
                config,
                tokens_target,
                model=target,
                positions=rows,
                facts=models["target"],
                out=folder.scores_target,
                name="verify on target",
                record=verifying,
                progress=progress,
            )
            target_scores[rows] = table.columns["effort"][rows]
            return target_scores[rows]

        effort = small_scores.columns["effort"]
        selections = _choose(config, effort, totals, ids, verify)
        if not verifying.rows:  # no region is large enough: nothing of an earlier start counts
            shutil.rmtree(folder.scores_target, ignore_errors=True)

    result["target_rows_scored"] = verifying.rows
    result["device"] = stages.device_used(config)
    outcome = Outcome(
        ids=ids,
        rows=prepared.rows,
        sources=prepared.sources,
        scores=small_scores.columns,
        target_scores=target_scores,
        selections=selections,
    )
    return _finish(config, folder, result, ledger, source, outcome, progress)


def _choose(
    config: SelectConfig,
    scores: Floats,
    totals: Mapping[str, int],
    ids: Sequence[str],
    verify: Callable[[Ints], Floats],
    candidates: Bools | None = None,
) -> dict[str, Selection]:
    """Steps 3-8: one cut, one stratification and one verification for every total."""
    chosen = select_staff(
        scores=scores,
        total=list(totals.values()),
        verify=verify,
        seed=config.seed,
        keys=keys_of_ids(ids, config.seed),
        candidates=candidates,
        regions=config.regions,
        verify_per_region=config.verify_per_region,
        cut=config.cut,
        allocation=config.allocation,
        within=config.within,
    )
    return dict(zip(totals, chosen, strict=True))


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything selection.parquet and the coresets are written from; n usable rows.

    rows: int64 [n], positions in the input. sources: [n], None without a source column.
    scores: the small model's columns, float64 [n] each. target_scores: float64 [n], NaN =
    not scored on the target.
    """

    ids: Sequence[str]
    rows: Ints
    sources: Sequence[str | None] | None
    scores: Mapping[str, Floats]
    target_scores: Floats
    selections: Mapping[str, Selection]


def _finish(
    config: SelectConfig,
    folder: RunFolder,
    result: dict[str, Any],
    ledger: Ledger,
    source: Source,
    outcome: Outcome,
    progress: Progress | None,
) -> dict[str, Any]:
    """Write selection.parquet and the coresets, then manifest.json."""
    selections = outcome.selections
    first = next(iter(selections.values()))
    total = sum(len(selection.rows) for selection in selections.values())
    with (
        ledger.stage("write", remember=False) as record,
        (progress or SilentProgress()).stage("write", total=total) as stage,
    ):
        of_row, verified = None, np.zeros(len(outcome.ids), np.bool_)
        if first.regions is not None and first.verification is not None:
            of_row = first.regions.of_row
            verified[first.verification.rows] = True
            result["cut"] = cut_facts(first, outcome.scores["effort"], config.cut)
            result["regions"] = region_facts(selections)
        write_selection(
            folder.selection,
            ids=outcome.ids,
            rows=outcome.rows,
            scores=outcome.scores,
            selections=selections,
            score_target=outcome.target_scores,
            regions=of_row,
            verified=verified,
            sources=outcome.sources,
        )
        folder.remove_other_coresets(list(selections), format=config.format)
        for name, selection in selections.items():
            chosen = set(outcome.rows[selection.rows].tolist())
            record.rows += write_records(
                folder.coreset(name, config.format),
                _noted((raw for raw in source.records() if raw.row in chosen), stage),
                format=config.format,
            )
        if source.content_hash() != result["data"]["sha256"]:
            raise DataError(f"{source.name} changed while it was read: run the same command again")
    keep_of = {coreset_name(keep): keep for keep in config.keep}
    result["coresets"] = coreset_facts(
        {name: keep_of.get(name) for name in selections}, selections, config.format
    )
    result["stages"] = ledger.as_dicts()
    write_report(folder, manifests.plain(result), source)
    result["files"] = manifests.hash_outputs(folder.path, folder.outputs())
    manifests.write_manifest(folder.manifest, result)
    return result


def _noted(records: Iterator[RawRecord], stage: Stage) -> Iterator[RawRecord]:
    for record in records:
        yield record
        stage.advance()


def _random(config: SelectConfig, folder: RunFolder, progress: Progress | None) -> dict[str, Any]:
    """Uniform coresets: the rows are read, no model is."""
    ledger = Ledger(folder.path)
    result = manifests.begin("select", config.model_dump(mode="json"), seed=config.seed)
    source = open_source(str(config.data))
    with ledger.stage("read", remember=False) as record:
        data_hash = source.content_hash()
        prepared = stages.read(config, source, (), folder=folder.path, progress=progress)
        record.rows = prepared.rows_read
    result["data"] = data_facts(str(config.data), data_hash, prepared)
    totals = requested_totals(config, prepared.usable)
    folder.begin_writing(config)
    stages.set_aside(prepared, folder.rejected)
    outcome = Outcome(
        ids=prepared.ids,
        rows=prepared.rows,
        sources=prepared.sources,
        scores={},
        target_scores=np.full(prepared.usable, np.nan),
        selections=_draw_random(config, prepared.ids, totals),
    )
    return _finish(config, folder, result, ledger, source, outcome, progress)


def _draw_random(
    config: SelectConfig, ids: Sequence[str], totals: Mapping[str, int]
) -> dict[str, Selection]:
    keys = keys_of_ids(ids, config.seed)
    return {
        name: select_random(total=total, keys=keys, seed=config.seed)
        for name, total in totals.items()
    }


def reselect(
    config: SelectConfig, *, progress: Progress | None = None, say: Say = silent
) -> dict[str, Any]:
    """Choose again from the scores stored in the run ``config.scores``; no model is loaded.

    The target's scores of the rows that run verified serve again; a region in which it
    verified none counts as unverified.

    Raises:
        RunError: no finished run there. DataError: its data file changed since.
    """
    earlier = manifests.read_manifest(str(config.scores))
    if not earlier.get("regions"):
        raise RunError(
            f"{config.scores} holds no scores: it was made by "
            f"{earlier['config'].get('method', earlier['command'])}, not by the method staff"
        )
    config = config.inherit(earlier["config"])
    origin, folder = RunFolder(str(config.scores)), RunFolder(config.folder)
    with folder.lock():
        folder.start(config, overwrite=config.overwrite)
        ledger = Ledger(folder.path)
        result = manifests.begin("select", config.model_dump(mode="json"), seed=config.seed)
        result |= {name: earlier[name] for name in ("data", "models", "device")}
        source = open_source(earlier["data"]["path"])
        with ledger.stage("read", remember=False) as record:
            if source.content_hash() != earlier["data"]["sha256"]:
                raise DataError(
                    f"{source.name} is not what {config.scores} scored any more: "
                    "run staff select on it with the models, in a new folder"
                )
            stored = read_selection(origin.selection)
            ids, target_scores = tuple(stored["id"]), stored["score_target"]
            scores = {"effort": stored["score_small"], **{k: stored[k] for k in SIGNALS}}
            record.rows = len(ids)
        totals = requested_totals(config, len(ids))
        with ledger.stage("select", remember=False):
            if config.method == "random":
                selections = _draw_random(config, ids, totals)
            else:
                selections = _choose(
                    config,
                    scores["effort"],
                    totals,
                    ids,
                    lambda rows: target_scores[rows],
                    candidates=~np.isnan(target_scores),
                )
        unknown = _unverified(next(iter(selections.values())), config.verify_per_region)
        if unknown:
            say(
                f"{unknown} regions hold no row that {config.scores} verified: "
                "they take an equal share"
            )
        folder.begin_writing(config)
        if origin.rejected.is_file():
            write_atomic(folder.rejected, origin.rejected.read_bytes())
        result["target_rows_scored"] = 0
        outcome = Outcome(
            ids=ids,
            rows=stored["row"],
            sources=stored.get("source"),
            scores=scores,
            target_scores=target_scores,
            selections=selections,
        )
        return _finish(config, folder, result, ledger, source, outcome, progress)


def _unverified(selection: Selection, per_region: int) -> int:
    """Regions large enough to be verified in which no row was."""
    if selection.regions is None or selection.verification is None:
        return 0
    missing = np.isnan(selection.verification.ratio) & (selection.regions.sizes > per_region)
    return int(missing.sum())
