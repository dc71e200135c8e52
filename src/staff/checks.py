"""Mistakes that can be found before torch is imported: files, columns, model folders."""

import math
from itertools import islice
from pathlib import Path
from typing import TypeVar

from staff.errors import ConfigError, RunError
from staff.progress import Say, silent
from staff.runs.again import ITEMS, METRICS, may_be_made, refuse_results
from staff.runs.cache import Cache
from staff.runs.compare_config import CompareConfig
from staff.runs.compare_folder import CompareFolder
from staff.runs.config import (
    CheckModelConfig,
    EvaluateConfig,
    FinetuneConfig,
    ScoreConfig,
    SelectConfig,
)
from staff.runs.manifest import read_manifest
from staff.runs.plan_config import PlanConfig
from staff.runs.store import RunFolder, check_place
from staff.words import rows_of

AUTO = "auto"  # --small auto

AnyConfig = (
    SelectConfig | ScoreConfig | FinetuneConfig | EvaluateConfig | CompareConfig | CheckModelConfig
)

Paired = TypeVar("Paired", PlanConfig, SelectConfig, CompareConfig)


def with_sibling(config: Paired, say: Say = silent) -> Paired:
    """The settings with the small model's name where they say auto; what it came to is said.

    Raises:
        ConfigError: there is no target, or the table of families knows no small model for it.
    """
    if config.small != AUTO:
        return config
    if config.target is None:
        raise ConfigError("--small auto depends on the target: give --target MODEL")
    from staff.models.families import sibling_of

    found = sibling_of(config.target)
    say(found.say())
    return config.model_copy(update={"small": found.location})


def check_inputs(config: AnyConfig) -> None:
    """Raise the `StaffError` that this command would run into, at once and without torch.

    Covers: data file missing, empty, of an unknown kind or without usable columns; model
    folder missing or not a causal LM with a tokenizer; an adapter that is none; --out taken
    by something else; --scores without a finished run.
    """
    from staff.models import folder
    from staff.stages.options import trust_of

    models: tuple[str | None, ...] = ()
    planned = isinstance(config, PlanConfig)  # leaves nothing, and may do without weights or Ray
    weights = not isinstance(config, PlanConfig) or config.probe
    if isinstance(config, SelectConfig | ScoreConfig) and config.executor == "ray" and not planned:
        from staff.stages.scoring import check_executor

        check_executor()
    if isinstance(config, SelectConfig):
        if config.scores:
            earlier = read_manifest(config.scores)
            if earlier.get("command") != "select":
                raise RunError(
                    f"{config.scores} was made by staff {earlier.get('command')}: --scores takes "
                    "the folder of a finished staff select"
                )
            config = config.inherit(earlier["config"])
        if not planned:
            RunFolder(config.folder).check_same_config(config, overwrite=config.overwrite)
        if config.method != "random":
            models = (config.small, config.target)
        elif config.counts_tokens:
            models = (config.counting_model,)
        for path in (config.include, config.exclude):
            if path is not None:
                from staff.data.lists import read_ids

                read_ids(path)
    elif isinstance(config, CompareConfig):
        CompareFolder(config.folder).check_same_config(config)
        models = (config.small, config.target)
        others = config.without_source()
        check_data(others, config.test, split=config.inputs["test"])
        for file in dict.fromkeys(config.own_files().values()):
            check_data(others, file, split=config.split)
    else:
        models = (config.model,)
        if not isinstance(config, CheckModelConfig):  # which leaves nothing
            check_out(config)
    if config.data is not None:
        check_data(config, config.data, split=config.split)
        if isinstance(config, SelectConfig):
            check_sizes(config)
    if weights:
        check_quantized(config)
    for model in models:
        if model is not None:
            folder.check_model_folder(model, weights=weights, trust=trust_of(config))
    if isinstance(config, SelectConfig | ScoreConfig | CompareConfig) and config.cache:
        Cache(config.cache).check_usable()
    if not isinstance(config, FinetuneConfig | CompareConfig) and config.adapter is not None:
        folder.check_adapter(config.adapter, trust=trust_of(config))


def check_quantized(config: AnyConfig) -> None:
    """Raise `ConfigError` if a package that quantises weights is asked for and not there."""
    from staff.models.quantised import check_installed

    for role in ("target", "small"):
        check_installed(config.quantized(role), flag=config.quantizing_flag(role))


def check_out(config: ScoreConfig | FinetuneConfig | EvaluateConfig) -> None:
    """Raise `RunError` if the folder to write to holds what this command would not replace."""
    if config.out is None:
        return
    out = Path(config.out)
    if isinstance(config, ScoreConfig):
        RunFolder(out).check_same_config(config, overwrite=config.overwrite)
        return
    check_place(out)
    if isinstance(config, FinetuneConfig):
        from staff.training import adapter_folder

        made = may_be_made(out / adapter_folder.STAMP)  # if by another command: refused later
        adapter_folder.check_out(out, overwrite=config.overwrite or made)
        return
    left = {METRICS, ITEMS}
    found = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if found & {"manifest.json", "config.yaml"} or ("rejected.jsonl" in found and not found & left):
        raise RunError(f"{out} contains a run, not an evaluation: choose another --out")
    if not config.overwrite and not may_be_made(out / METRICS):
        refuse_results(out)


def may_be_finished(config: ScoreConfig | FinetuneConfig | EvaluateConfig) -> bool:
    """Whether a result is in the folder to write to that may be this command's own."""
    from staff.training.adapter_folder import STAMP

    if config.out is None or config.overwrite:
        return False
    out = Path(config.out)
    notes = {"finetune": out / STAMP, "evaluate": out / METRICS}
    return may_be_made(notes.get(config.command, RunFolder(out).manifest))


def check_data(config: AnyConfig, data: str | None, *, split: str) -> None:
    """Raise `DataError` or `ConfigError` if the file or its columns cannot be used."""
    from staff.data.files import open_source
    from staff.data.prepare import check_columns
    from staff.stages.options import record_options

    source = open_source(str(data), split=split)
    if source.kind == "hub":
        return  # only the pipeline may wait for a network
    check_columns(source, record_options(config))


def check_sizes(config: SelectConfig) -> None:
    """Raise `ConfigError` if the file has fewer rows than asked for, or too few to keep one.

    Reads no further than it takes to tell; rows that cannot be used are not known yet.
    """
    from staff.data.files import open_source
    from staff.selectors import total_of

    source = open_source(str(config.data))
    if source.kind == "hub":
        return
    keeps = config.keep if config.keep_of == "rows" else ()  # tokens are not counted here
    most = max([*config.total, *(math.ceil(1 / keep) for keep in keeps)], default=0)
    rows = sum(1 for _ in islice(source.records(), most))
    if rows == most:
        return
    for total in config.total:
        if total > rows:
            raise ConfigError(f"--total {total}: {config.data} has only {rows_of(rows)}")
    for keep in keeps:
        total_of(keep, rows)
