"""report.html of a run: what was chosen and why, in one self-contained file."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

from staff.data.files import Source, open_source
from staff.errors import DataError
from staff.reports import figures
from staff.reports.bins import (
    SCORE_BINS,
    Bins,
    bin_lengths,
    bin_scores,
    count_by_region,
    intervals,
    most,
    sample,
)
from staff.reports.page import render_page
from staff.reports.proxy import (
    findings,
    headline,
    interpolated_text,
    region_texts,
    rounds_text,
)
from staff.reports.rows import show_rows
from staff.reports.tables import by_source, medians, settings
from staff.reports.text import at_random, constraints, filled_up, quota_text
from staff.runs.facts import duplicates_fate, trust_remarks
from staff.runs.scored import IFD, LENGTH, Score, by_features, score_of
from staff.runs.selection_file import (
    check_regions,
    coreset_columns,
    read_dropped,
    read_numbers,
)
from staff.runs.store import RunFolder, write_atomic
from staff.selectors.agreement import rank_correlation
from staff.types import Bools, Floats, Ints
from staff.words import rows_of

# What keeps the file small whatever the run: see also SHOWN and TEXT_BYTES in rows.py.
MAX_CORESETS = 6  # those asked for first have charts and columns
MAX_REGIONS = 200  # lines in the table of regions
MAX_POINTS = 400
COLUMNS = (  # of selection.parquet that the page is made of, beside those of the coresets
    *("row", "source", "region", "verified", "score_small", "score_target", "score_untuned"),
    *("loss", "entropy", "response_length"),
)


def data_of(manifest: Mapping[str, Any]) -> Source:
    """The data of a finished run, if it is still what was read.

    Raises:
        DataError: it no longer exists, may not be read, or has changed.
    """
    if "reading" not in manifest["data"]:
        raise DataError("the run is from an earlier version of staff, which did not store columns")
    data = manifest["data"]
    try:
        source = open_source(data["path"], revision=data.get("revision"))
        changed = source.content_hash() != data["sha256"]
    except OSError as error:  # another user's, perhaps
        raise DataError(f"cannot read {data['path']}: {error.strerror}") from None
    if changed:
        raise DataError(f"{source.name} has changed since the run")
    return source


def write_report(
    folder: RunFolder, manifest: Mapping[str, Any], source: Source | None, *, missing: str = ""
) -> None:
    """Write report.html of a run, atomically, from its manifest and selection.parquet.

    manifest: plain values, as manifest.json has them. source: the data, for the texts of a
    few rows; without it they are left out, and `missing` says why.
    """
    write_atomic(folder.report, render_run(folder, manifest, source, missing=missing))


def render_run(
    folder: RunFolder, manifest: Mapping[str, Any], source: Source | None, *, missing: str = ""
) -> str:
    """The page as text; the same for the same run."""
    score = score_of(manifest["config"])
    table = read_numbers(folder.selection, {*COLUMNS, *(score.columns if score else ())})
    scores = score.values(table) if score else None
    if score and score.column == IFD:
        table[IFD] = scores  # beside the signals it is made of
    chosen = {name: table[f"selected@{name}"] for name in coreset_columns(table)[:MAX_CORESETS]}
    regions, stages = manifest.get("regions") or [], manifest.get("stages") or []
    if not regions:  # a random selection: the column is there, and null
        table["region"] = np.zeros(len(table["row"]), np.int64)
    # Null, and so NaN: no part of the selection.
    table["region"] = np.nan_to_num(table["region"], nan=-2).astype(np.int64)
    check_regions(table["region"], max(len(regions), 1))
    return render_page(
        "run.html",
        manifest=manifest,
        data=manifest["data"],
        name=PurePath(manifest["data"]["path"]).name,
        remarks=_remarks(manifest, len(chosen)),
        regions=regions,
        max_regions=MAX_REGIONS,
        unverified=region_texts(regions, manifest["config"]),
        stages=stages,
        seconds=sum(stage["seconds"] for stage in stages),
        times_figure=figures.times_figure(stages) if stages else None,
        agreement=_agreement(table, manifest["seed"]),
        proxy=_proxy(manifest),
        score=score,
        by_features=by_features(manifest["config"]),
        coresets=_coresets(folder, manifest, table, chosen, score, scores),
        medians=medians(table, chosen),
        sources=by_source(table, chosen, scores=scores) if "source" in table else [],
        settings=settings(manifest),
        missing=missing,
        **show_rows(folder, manifest, table, chosen, source, scores=scores),
    )


def _remarks(manifest: Mapping[str, Any], coresets: int) -> list[str]:
    """What else to know of the rows and the models, where there is something."""
    data, fate = manifest["data"], duplicates_fate(manifest["config"])
    scoreless = sum(found["rows"] for found in (manifest.get("not_finite") or {}).values())
    remarks = [f"{rows_of(scoreless)} without a finite score"] if scoreless else []
    if interpolation := manifest.get("interpolation"):
        remarks.append(interpolated_text(interpolation))
    remarks += [
        f"{rows_of(data[key])} {words}"
        for key, words in (
            ("rejected", "skipped (see rejected.jsonl)"),
            ("truncated", "truncated to the maximum length"),
            ("duplicates", f"with the contents of an earlier one ({fate})"),
        )
        if data.get(key)
    ]
    remarks += [*constraints(manifest), *trust_remarks(manifest["config"])]
    for coreset in manifest["coresets"][:coresets]:
        if told := quota_text(manifest, coreset["name"]):
            remarks.append(f"coreset {coreset['name']}, {told}")
    if len(manifest["coresets"]) > coresets:
        remarks.append(f"the first {coresets} of {len(manifest['coresets'])} coresets are shown")
    return remarks


def _coresets(
    folder: RunFolder,
    manifest: Mapping[str, Any],
    table: Mapping[str, Any],
    chosen: Mapping[str, Bools],
    score: Score | None,
    scores: Floats | None,
) -> list[dict[str, Any]]:
    """The manifest's entry of each coreset shown, with its counts and charts, where scores are.

    score, scores: what the method goes by and its values, float64 [n], if it goes by any.
    """
    coresets = [dict(c) for c in manifest["coresets"] if c["name"] in chosen]
    for coreset in coresets:
        coreset["filled_up"] = filled_up(coreset)
        coreset["drawn"] = at_random(coreset)
        rows = chosen[coreset["name"]]
        known = ~np.isnan(table["response_length"])  # not of rows without a finite score
        if known.any():
            everything = np.ones(np.count_nonzero(known), np.bool_)
            lengths = bin_lengths(
                table["response_length"][known], all=everything, chosen=rows[known]
            )
            totals = {"all": len(everything), "chosen": int(np.count_nonzero(rows[known]))}
            coreset["lengths"] = figures.lengths_figure(lengths, coreset["name"], totals=totals)
            coreset["longer"] = lengths.beyond
            coreset["chosen_longer"] = totals["chosen"] - int(lengths.counts["chosen"].sum())
        if score is None or scores is None:
            continue
        if manifest.get("regions"):
            coreset |= _by_region(manifest, scores, table["region"], rows, coreset["name"], score)
        elif not np.isnan(scores).all():
            dropped = read_dropped(folder.selection, coreset["name"])
            coreset |= _by_score(scores, dropped, rows, coreset["name"], score)
    return coresets


def _by_region(
    manifest: Mapping[str, Any], values: Floats, region: Ints, rows: Bools, name: str, score: Score
) -> dict[str, Any]:
    """One coreset's rows in each region, and the chart of the scores that regions are made of."""
    known = ~np.isnan(values)  # a row without a finite score is in no region and not chosen
    scores = bin_scores(
        values[known],
        threshold=manifest["cut"]["threshold"],
        regions=intervals(manifest["regions"]),
        uncut=(region != -1)[known],  # those on a list, too: the included ones are chosen
        cut=(region == -1)[known],
        chosen=rows[known],
    )
    by_region = count_by_region(region, rows, len(manifest["regions"]))
    return {
        "by_region": by_region.tolist(),
        "scores": figures.selection_figure(scores, manifest, name, by_region, title=score.title),
        "beyond": scores.beyond,
    }


def _by_score(
    values: Floats, dropped: Bools, rows: Bools, name: str, score: Score
) -> dict[str, Any]:
    """The chart of the scores that a method without regions goes by, for one coreset.

    values: float64 [n]. dropped, rows: bool [n], what was left out beforehand and what is chosen.
    """
    known = ~np.isnan(values)
    kept, out = known & ~dropped, known & dropped
    groups = {"uncut": kept[known], "cut": out[known], "chosen": rows[known]}
    threshold = None
    bins: Bins
    if score.column == LENGTH:
        bins = bin_lengths(values[known], tail=True, **groups)
    else:
        highest = float(values[kept].max()) if out.any() and kept.any() else None
        # Of groups with quotas each has its own rows dropped: there is no one score, then.
        if highest is not None and values[out].min() >= highest:
            threshold = highest
        end = most(values[known]) if threshold is None else threshold
        bins = bin_scores(values[known], threshold=end, regions=SCORE_BINS, **groups)
    return {
        "scores": figures.scores_figure(bins, name, title=score.title, threshold=threshold),
        "dropped": int(np.count_nonzero(out)),
        "beyond": bins.beyond,
        "chosen_beyond": int(rows[known].sum() - bins.counts["chosen"].sum()),
    }


def _proxy(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The verdict on the small model in words; None in a run of an earlier version."""
    proxy, verification = manifest.get("proxy"), manifest.get("verification")
    if not proxy:
        return None
    told = [rounds_text(verification)] if verification else []
    return {
        "headline": headline(proxy),
        "findings": [*findings(proxy), *told],
        "advice": proxy["advice"],
    }


def _agreement(table: Mapping[str, Any], seed: int) -> dict[str, Any] | None:
    """Both models' scores of the verified rows: correlation over all, a chart of some.

    The small model's are those that the target's were divided by, as in the verdict.
    """
    untuned = "score_untuned" in table
    small, target = table["score_untuned" if untuned else "score_small"], table["score_target"]
    # A score that is not finite would rank above all others.
    rows = np.flatnonzero(table["verified"] & np.isfinite(small) & np.isfinite(target))
    if len(rows) < 2:
        return None
    correlation = rank_correlation(small[rows], target[rows])
    drawn = sample(rows, MAX_POINTS, seed=seed)
    return {
        "correlation": correlation,
        "figure": figures.agreement_figure(
            small[drawn], target[drawn], correlation, untuned=untuned
        ),
        "drawn": len(drawn),
        "rows": len(rows),
    }
