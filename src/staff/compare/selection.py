"""What each method chooses with one seed: one fine-tuning and scoring for all, in one folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from staff import pipeline
from staff.asked import counting_models
from staff.data.files import open_source
from staff.data.kept import keep
from staff.errors import DataError, RunError
from staff.hashing import hash_file
from staff.ledger import remembered
from staff.progress import Progress, Say, silent
from staff.runs.compare_config import CompareConfig
from staff.runs.compare_folder import CompareFolder
from staff.runs.config import RESELECT, TECHNICAL, SelectConfig
from staff.runs.config_file import build
from staff.runs.inputs import check_same_inputs, input_facts, model_inputs
from staff.runs.manifest import is_of_these_versions, read_manifest
from staff.runs.settings import Method
from staff.runs.store import RunFolder
from staff.scores.shards import has_features
from staff.selectors import needs
from staff.stages.facts import tokenisers_of
from staff.stages.options import trust_of
from staff.stages.reading import TOKENS, read_once

# Settings that a selection takes from the comparison as they are.
SHARED = (SelectConfig.model_fields.keys() & CompareConfig.model_fields.keys()) - {
    *("epochs", "learning_rate", "out", "overwrite"),
}
FEATURES = frozenset({"features", "connect"})  # what a selector needs hidden states for
# Stages of the shared run, and the need of a method that they are there for.
FOR_WHOM = {"score responses alone": "unconditioned", "verify on target": "verify",
            "score small untuned": "verify"}  # fmt: skip
# Of a manifest's data, for compare.json.
READ = ("rows_usable", "rejected", "truncated", "duplicates")


@dataclass(frozen=True, slots=True)
class Chosen:
    """One method's coresets of one seed: file and SHA-256 by keep, and what choosing took.

    seconds: of the stages that this method needs, whoever else used them. read: how many rows of
    the data there is a choice of (``rows_usable``), were skipped and are truncated.
    """

    files: Mapping[str, Path]
    sha256: Mapping[str, str]
    seconds: float
    read: Mapping[str, int]


def choose(
    config: CompareConfig,
    folder: CompareFolder,
    seed: int,
    *,
    known: Mapping[str, Any],
    progress: Progress | None = None,
    say: Say = silent,
) -> dict[str, Chosen]:
    """Each method's coresets with one seed; selections that are there already are kept.

    The method that needs most (`main_method`) selects in the shared folder; what others need
    beside that is put there first. They select from the scores it holds. Rows and tokens stay in
    the comparison's folder, for all of them and for the other seeds.

    known: ``data`` (SHA-256) and ``models`` (``hash`` and ``tokenizer`` by role) as they are now:
    what was chosen from others is chosen again.
    """
    base, main = folder.scored(seed), main_method(config.methods, within=config.within)

    def select(config: SelectConfig) -> dict[str, Any]:
        """Select in the shared folder; what was begun from other contents starts anew."""
        if _of_others(base, config, known):
            config = config.model_copy(update={"overwrite": True})
        return pipeline.select(config, tokens=folder.path, progress=progress, say=say)

    def again(method: Method) -> tuple[SelectConfig, dict[str, Any] | None]:
        """The settings of a selection from the shared scores, and its manifest if it is there."""
        place = folder.chosen(seed, method)
        asked = SelectConfig(
            scores=str(base.path),
            method=method,
            keep=config.keep,
            out=str(place.path),
            overwrite=True,  # what is there may name the place that the comparison was moved from
        )
        shared = scoring_config(config, folder, seed, method).model_dump(mode="json")
        return asked, _kept(place, asked.inherit(shared), known)

    own: dict[str, dict[str, Any]] = {}
    for method in scored_first(config.methods, main, within=config.within):
        if "unconditioned" in needs(method):
            asked, kept = again(method)
            if kept is None:
                select(scoring_config(config, folder, seed, method))
                # Now: the table of the next selection in that folder has no such losses.
                kept = pipeline.reselect(asked, progress=progress, say=say)
            own[method] = kept
        elif not has_features(base.scores_small):
            select(scoring_config(config, folder, seed, method))
    wanted = scoring_config(config, folder, seed, main)
    own[main] = _kept(base, wanted, known) or select(wanted)
    for method in config.methods:
        if method not in own:
            asked, kept = again(method)
            own[method] = kept or pipeline.reselect(asked, progress=progress, say=say)
    if any(made["data"]["sha256"] != known["data"] for made in own.values()):
        raise DataError(f"{config.data} changed while it was read: run the same command again")
    places = {m: base if m == main else folder.chosen(seed, m) for m in config.methods}
    shared = {stage["name"]: stage["seconds"] for stage in own[main]["stages"]}
    shared |= remembered(base.path)
    return {
        method: Chosen(
            files={c["name"]: places[method].path / c["path"] for c in own[method]["coresets"]},
            sha256={c["name"]: own[method]["files"][c["path"]] for c in own[method]["coresets"]},
            seconds=seconds_of(method, own[method], shared={} if method == main else shared),
            read={key: own[main]["data"][key] for key in READ},
        )
        for method in config.methods
    }


def check_usable(
    config: CompareConfig,
    folder: CompareFolder,
    check: Callable[[int], None],
    *,
    known: Mapping[str, Any],
    progress: Progress | None = None,
) -> None:
    """Tell `check` how many rows methods choose from; what is read for it serves the selections.

    Nothing is kept if it raises. known: as of `choose`.
    """
    wanted = scoring_config(config, folder, 0, main_method(config.methods, within=config.within))
    if kept := _kept(folder.scored(0), wanted, known):
        check(int(kept["data"]["rows_usable"]))
        return
    prepared, key = read_once(
        wanted,
        open_source(str(config.data)),
        tokenisers_of(
            counting_models(wanted), max_length=config.max_length, trust=trust_of(config)
        ),
        data_hash=known["data"],
        folder=folder.path,
        afresh=config.overwrite,
        progress=progress,
    )
    check(prepared.usable)
    keep(prepared, folder.path / TOKENS, key)


def main_method(methods: Sequence[Method], *, within: str) -> Method:
    """The method that needs most, so that the others find what they need in its run.

    >>> main_method(["random", "d2", "staff", "ifd"], within="hardest")
    'staff'
    >>> main_method(["random", "ccs", "d2"], within="hardest")
    'd2'
    """

    def rank(method: Method) -> tuple[bool, ...]:
        wanted = needs(method, within=within)
        return (
            "verify" in wanted,
            "unconditioned" in wanted,
            bool(FEATURES & wanted),
            bool(wanted),
        )

    return max(methods, key=rank)


def scored_first(methods: Sequence[Method], main: Method, *, within: str) -> list[Method]:
    """Methods whose runs leave what that of `main` does not: features, then IFD's second losses.

    >>> scored_first(["staff", "ccs", "k-centre", "d2", "ifd"], "staff", within="hardest")
    ['k-centre', 'ifd']
    >>> scored_first(["staff", "d2"], "staff", within="spread")  # staff itself leaves features
    []
    """
    there = FEATURES & needs(main, within=within)
    found = [] if there else [m for m in methods if FEATURES & needs(m)][:1]
    return found + [m for m in methods if m != main and "unconditioned" in needs(m)]


def scoring_config(
    config: CompareConfig, folder: CompareFolder, seed: int, method: Method
) -> SelectConfig:
    """The settings of a run in the shared folder of one seed."""
    return SelectConfig(
        **{name: getattr(config, name) for name in sorted(SHARED)},
        method=method,
        epochs=config.small_epochs or config.epochs,
        learning_rate=config.small_learning_rate or config.learning_rate,
        seed=seed,
        out=str(folder.scored(seed).path),
    )


def seconds_of(method: str, own: Mapping[str, Any], *, shared: Mapping[str, float]) -> float:
    """What choosing by this method takes: its own run, and what it needs of the shared one.

    own: the manifest of its run. shared: seconds by stage; a random draw only has to read the
    data, and only what verifies needs the target.
    """
    wanted = needs(method)
    total = float(sum(stage["seconds"] for stage in own["stages"]))
    for name, seconds in shared.items():
        if name in ("select", "write"):
            continue
        if name == "read" or (FOR_WHOM[name] in wanted if name in FOR_WHOM else wanted):
            total += seconds
    return total


def _kept(
    folder: RunFolder, wanted: SelectConfig, known: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The manifest of a finished selection, if it is what would be made now."""
    try:
        manifest = read_manifest(folder.path)
    except RunError:
        return None
    now = wanted.model_dump(mode="json")
    # A selection from stored scores writes down, too, how their run read the data. Where it and
    # its scores lie changes when the comparison is moved.
    settings = (RESELECT if wanted.scores else now.keys()) - TECHNICAL
    settings -= {"out", "scores", "overwrite"}
    files = manifest.get("files") or {}
    same = (
        is_of_these_versions(manifest)  # scores are of the same, and so is what is tuned on them
        and all(manifest["config"].get(name) == now[name] for name in settings)
        and manifest["data"]["sha256"] == known["data"]
        and all(
            (known["models"].get(role) or {}).get(fact) == (model or {}).get(fact)
            for role, model in manifest.get("models", {}).items()
            for fact in ("hash", "tokenizer")
        )
        and all(_intact(folder.path / c["path"], files) for c in manifest["coresets"])
    )
    return manifest if same else None


def _of_others(folder: RunFolder, config: SelectConfig, known: Mapping[str, Any]) -> bool:
    """Whether a selection began with other data, models or tokenizers, or without a small model.

    The last is of a comparison of random subsets, to which other methods come.
    """
    if (
        config.small
        and folder.config.is_file()
        and not build(SelectConfig, file=folder.config).small
    ):
        return True
    now = input_facts(data=(config.data, known["data"])) | model_inputs(known["models"])
    try:
        check_same_inputs(folder, now)
    except RunError:
        return True
    return False


def _intact(file: Path, hashes: Mapping[str, str]) -> bool:
    return file.is_file() and hash_file(file) == hashes.get(file.name)
