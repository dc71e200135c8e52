"""What `staff select --scores` needs of an earlier run."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from staff.data.files import Source, open_source
from staff.errors import DataError, RunError
from staff.methods import score_column, wanted_by
from staff.runs.config import SelectConfig
from staff.runs.facts import told_of_data
from staff.runs.manifest import check_parts, check_selection, read_manifest
from staff.runs.selection_file import SIGNALS
from staff.runs.selection_file import read_stored as read_table
from staff.runs.store import RunFolder
from staff.types import Floats, Rows


def source_of(earlier: Mapping[str, Any]) -> Source:
    """The data of the run whose manifest `earlier` is. Raises `DataError` if they are not there."""
    data = earlier["data"]
    try:
        return open_source(data["path"], revision=data.get("revision"))
    except DataError as error:
        raise DataError(told_of_data(error, data, "run this command there")) from None


def check_source(source: Source, earlier: Mapping[str, Any], scores: str | None) -> str:
    """The SHA-256 of a run's data. Raises `DataError` if they have changed since."""
    sha256: str = earlier["data"]["sha256"]
    if source.content_hash() != sha256:
        raise DataError(
            f"{source.name} has changed since {scores} scored it: run staff select on it with the "
            "models, in a new folder"
        )
    return sha256


def read_stored(config: SelectConfig, *, features: bool = True) -> tuple[Rows, Any]:
    """Read what the method of `config` needs from the run ``config.scores``.

    Returns its rows, of their scores those that are known, and the features float32 [n, D] if
    the method needs them, else None.
    features: False to see only whether they are there.

    Raises `RunError` saying what is missing and which command computes it.
    """
    manifest = read_manifest(str(config.scores))
    check_selection(str(config.scores), manifest)
    table = read_table(RunFolder(str(config.scores)).selection)
    named = {"effort": table["score_small"], **{k: table[k] for k in SIGNALS if k in table}}
    # A row without a finite score has none at all, and one with a score has every score there is.
    scored = ~np.isnan(table["score_small"]) & ~table["rejected"]
    scores = {
        name: x for name, x in named.items() if scored.any() and not np.isnan(x[scored]).any()
    }
    wanted, column = wanted_by(config), score_column(config)
    if column is not None and column not in scores:
        raise RunError(_missing(config, "no scores"))
    if "unconditioned" in wanted and "unconditioned_loss" not in scores:
        raise RunError(_missing(config, "no losses of responses alone"))
    if "verify" in wanted and not _was_verified(config, table["score_target"]):
        raise RunError(_missing(config, "no scores of the target"))
    made_with = manifest["config"]
    # A small model that was not fine-tuned has no other scores from before that.
    tuned = made_with.get("adapter") is not None or not made_with.get("skip_finetune")
    against_untuned = config.scores_untuned and tuned
    if against_untuned and "score_untuned" not in table:
        raise RunError(_missing(config, "no scores of the small model before fine-tuning"))
    found = None
    if wanted & {"features", "connect"}:
        folder = _with_features(config)
        found = _features(config, folder, table) if features else None
    tokens = np.asarray(table.get("tokens", np.nan), np.float64)  # null, and so NaN, if not counted
    lengths = None if np.isnan(tokens).any() else tokens.astype(np.int64)
    if config.counts_tokens and lengths is None:
        raise RunError(
            f"{config.scores} has no token counts: no tokenizer read its rows. Give sizes in rows, "
            "or run staff select on its data with --target MODEL instead of --scores"
        )
    rows = Rows(
        ids=table["id"],
        rows=table["row"],
        sources=table.get("source"),
        lengths=lengths,
        scores=scores,
        target_scores=table["score_target"],
        untuned_scores=table["score_untuned"] if against_untuned else None,
        interpolated=table.get("interpolated"),
    )
    return rows, found


def _was_verified(config: SelectConfig, target_scores: Floats) -> bool:
    """Whether these scores, float64 [n], are of a run that asked the target.

    If none is known, perhaps no region was large enough to be verified: the run that did the
    scoring says so. It may have been made again since, by another method even, so what the table
    says itself goes first.
    """
    if not np.isnan(target_scores).all():
        return True
    manifest = read_manifest(_root(config))
    by_staff = manifest["config"].get("method", "staff") == "staff"
    return by_staff and not manifest.get("target_rows_scored")


def _with_features(config: SelectConfig) -> Path:
    """The folder of scores with features, of the run that did the scoring."""
    from staff.scores.shards import has_features

    root = _root(config)
    folder = RunFolder(root).scores_small
    check_parts(root, read_manifest(root), folder)
    if not has_features(folder):
        raise RunError(_missing(config, "no features"))
    return folder


def _features(config: SelectConfig, folder: Path, table: Mapping[str, Any]) -> Any:
    """The features float32 [n, D] in `folder`, of the rows and scores in `table`."""
    from staff.scores.shards import read_with_features

    scores, features = read_with_features(folder)
    efforts = scores.columns["effort"]
    same_rows = scores.ids == table["id"]
    if not same_rows or not np.array_equal(efforts, table["score_small"], equal_nan=True):
        root = _root(config)
        raise RunError(
            f"the features in {folder} do not match the rows and scores in {config.scores}: {root} "
            f"has been made again since. Give --scores {shlex.quote(root)}."
        )
    return features


def _root(config: SelectConfig) -> str:
    """The run that did the scoring: ``config.scores``, or the one that it selected again from."""
    seen = [str(config.scores)]
    manifest = read_manifest(seen[0])
    while origin := manifest["config"].get("scores"):
        if origin in seen:
            raise RunError(
                f"{config.scores} says that its scores are from {origin}, which leads back to "
                "itself: its manifest.json was edited"
            )
        try:
            manifest = read_manifest(origin)
        except RunError as error:
            raise RunError(
                f"{config.scores} is a selection from the scores of {origin}, which the method "
                f"{config.method} needs here: {error}"
            ) from None
        seen.append(origin)
    return seen[-1]


def _missing(config: SelectConfig, what: str) -> str:
    root = _root(config)
    made_by = read_manifest(root)["config"].get("method", "staff")
    again = f"staff select --config {shlex.quote(f'{root}/config.yaml')} --method {config.method}"
    if config.method == made_by:  # what is missing is for this
        again += f" --within {config.within} --verify-against {config.verify_against}"
    return (
        f"{config.scores} has {what}: it was made by the method {made_by}.\n"
        f"Run the method {config.method} with the models instead of --scores. If {root} was made "
        f"with models, this computes only what is missing and replaces its coresets: {again}"
    )
