"""What each method chooses with one seed: one scoring pass for all, then reselections from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from staff import pipeline
from staff.errors import RunError
from staff.pipeline import Say, silent
from staff.progress import Progress
from staff.runs.compare_config import CompareConfig, Method
from staff.runs.compare_folder import CompareFolder
from staff.runs.config import TECHNICAL, SelectConfig
from staff.runs.manifest import hash_file, read_manifest
from staff.runs.store import RunFolder
from staff.selectors import needs

# Settings that a selection takes from the comparison as they are.
SHARED = (SelectConfig.model_fields.keys() & CompareConfig.model_fields.keys()) - {
    *("epochs", "learning_rate", "out", "overwrite"),
}
FEATURES = frozenset({"features", "connect"})  # what a selector needs hidden states for


@dataclass(frozen=True, slots=True)
class Chosen:
    """One method's coresets of one seed: file and SHA-256 by keep, and what choosing took.

    seconds: of the stages that this method needs, whoever else used them.
    """

    files: Mapping[str, Path]
    sha256: Mapping[str, str]
    seconds: float
    usable: int


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

    known: ``data`` (SHA-256) and ``models`` (SHA-256 by role) as they are now: what was chosen
    from others is chosen again.
    """
    first = scoring_method(config.methods)
    base = folder.scored(seed)
    wanted = scoring_config(config, folder, seed)
    scored = _kept(base, wanted, known)
    if scored is None:
        scored = pipeline.select(wanted, progress=progress, say=say)
    chosen: dict[str, Chosen] = {}
    for method in config.methods:
        run, own = base, scored
        if method != first:
            run = folder.chosen(seed, method)
            asked = SelectConfig(
                scores=str(base.path), method=method, keep=config.keep, out=str(run.path)
            )
            kept = _kept(run, asked.inherit(scored["config"]), known)
            own = kept or pipeline.reselect(asked, progress=progress, say=say)
        chosen[method] = Chosen(
            files={c["name"]: run.path / c["path"] for c in own["coresets"]},
            sha256={c["name"]: own["files"][c["path"]] for c in own["coresets"]},
            seconds=seconds_of(method, scored, own),
            usable=scored["data"]["rows_usable"],
        )
    return chosen


def scoring_method(methods: tuple[Method, ...]) -> Method:
    """The method whose run serves the others: one that verifies, else one that scores."""
    return min(methods, key=lambda m: (-("verify" in needs(m)), -bool(needs(m)), methods.index(m)))


def scoring_config(config: CompareConfig, folder: CompareFolder, seed: int) -> SelectConfig:
    """The settings of the run that serves all methods."""
    return SelectConfig(
        **{name: getattr(config, name) for name in sorted(SHARED)},
        method=scoring_method(config.methods),
        features=any(FEATURES & needs(method) for method in config.methods),
        epochs=config.small_epochs or config.epochs,
        learning_rate=config.small_learning_rate or config.learning_rate,
        seed=seed,
        out=str(folder.scored(seed).path),
    )


def seconds_of(method: str, scored: Mapping[str, Any], own: Mapping[str, Any]) -> float:
    """What choosing by this method takes, from the manifests of the shared run and its own.

    Of the shared run the stages count that the method needs: a random draw only has to read
    the data, and only what verifies needs the target.
    """
    total = sum(stage["seconds"] for stage in own["stages"])
    if own is scored:
        return float(total)
    wanted = needs(method)
    for stage in scored["stages"]:
        if stage["name"] in ("read", "write"):
            needed = stage["name"] == "read"
        else:
            needed = "verify" in wanted if stage["name"] == "verify on target" else bool(wanted)
        total += stage["seconds"] * needed
    return float(total)


def _kept(
    folder: RunFolder, wanted: SelectConfig, known: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The manifest of a finished selection, if it is what would be made now."""
    try:
        manifest = read_manifest(folder.path)
    except RunError:
        return None
    free = TECHNICAL | {"overwrite"}
    now = wanted.model_dump(mode="json", exclude=set(free))
    models = {role: model["hash"] for role, model in manifest.get("models", {}).items()}
    same = (
        {k: v for k, v in manifest["config"].items() if k not in free} == now
        and manifest["data"]["sha256"] == known["data"]
        and all(known["models"].get(role) == found for role, found in models.items())
        and all(_intact(folder.path / c["path"], manifest["files"]) for c in manifest["coresets"])
    )
    return manifest if same else None


def _intact(file: Path, hashes: Mapping[str, str]) -> bool:
    return file.is_file() and hash_file(file) == hashes.get(file.name)
