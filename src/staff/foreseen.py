"""What can be foreseen of a selection once its data are read: for a dry run, a plan and a run.

Warnings that follow from data, tokenizers and settings, whatever a run costs.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from staff.asked import models_of
from staff.data.prepare import Prepared
from staff.data.records import CHAT
from staff.errors import ModelError
from staff.models.folder import local_folder, read_config
from staff.models.load import load_tokenizer
from staff.models.weights import count_numbers, is_pickled, weight_files
from staff.runs.config import SelectConfig
from staff.selectors.regions import below_cut, regions_for
from staff.selectors.rounds import fewer_regions, not_verified
from staff.stages.options import trust_of
from staff.words import count, counted, rows_of


def warnings_of(
    config: SelectConfig, prepared: Prepared, tokenizers: Mapping[str, Any] | None = None
) -> list[str]:
    """Warnings in words, the most serious first.

    tokenizers: by role, of the models the selection scores with; by default they are loaded, and
    no weights with them.
    """
    weights = tokenizers is not None  # a run has them by now
    tokenizers = _loaded(config) if tokenizers is None else tokenizers
    return [
        *_family(config, tokenizers, weights=weights),
        *_cut(config, prepared),
        *_chat(prepared, tokenizers),
        *too_many_regions(config, prepared.usable),
    ]


def _loaded(config: SelectConfig) -> dict[str, Any]:
    """By role, of a selection that scores; none where no target was named."""
    models = {} if config.target is None else models_of(config)
    return {
        role: load_tokenizer(model, weights=False, trust=trust_of(config))
        for role, model in models.items()
    }


def _family(config: SelectConfig, tokenizers: Mapping[str, Any], *, weights: bool) -> Iterator[str]:
    if len(tokenizers) < 2:
        return
    folders = {
        role: local_folder(str(getattr(config, role)), weights=weights, trust=trust_of(config))
        for role in tokenizers
    }
    kinds = {role: read_config(folder)["model_type"] for role, folder in folders.items()}
    if kinds["small"] != kinds["target"]:
        yield (
            f"the small model ({kinds['small']}) is not of the target's family ({kinds['target']})"
        )
    if tokenizers["small"].get_vocab() != tokenizers["target"].get_vocab():
        yield (
            "the tokenizers have different vocabularies, so the two models score different tokens"
        )
    stored = {role: _stored(folder) for role, folder in folders.items()}
    if stored["small"] > stored["target"] > 0:
        yield (
            f"the small model ({count(stored['small'])} parameters) is larger than the target "
            f"({count(stored['target'])}): are the two models swapped?"
        )


def _stored(folder: Path) -> int:
    """Parameters by a folder's weight files; 0 where these do not tell.

    A plan does without weights: there may be none, or what git has in their place. Opening a
    pickle would load all of it, and quantised weights are packed.
    """
    if "quantization_config" in read_config(folder):
        return 0
    with suppress(ModelError):  # a run has refused such a folder by now
        files = weight_files(folder)
        if all(file.is_file() and not is_pickled(file) for file in files):
            return sum(map(count_numbers, files))
    return 0


def _cut(config: SelectConfig, prepared: Prepared) -> Iterator[str]:
    if prepared.truncated:
        longest = max(int(store.lengths.max()) for store in prepared.stores)
        shorter = "raise --max-length, " if config.max_length else ""  # else it is the maximum
        yield (
            f"{prepared.truncated:,} of {prepared.usable:,} responses "
            f"{'is' if prepared.truncated == 1 else 'are'} truncated at "
            f"{longest:,} tokens: {shorter}use models with a longer context, shorten the prompts "
            "or leave those rows out"
        )


def _chat(prepared: Prepared, tokenizers: Mapping[str, Any]) -> Iterator[str]:
    # Without a template chats could not be read at all.
    if "target" not in tokenizers or prepared.format in CHAT:
        return
    if tokenizers["target"].chat_template:
        yield (
            "the target has a chat template, but the data are not conversations and are used as "
            "plain text; give messages if the target is to answer in a chat"
        )


def too_many_regions(config: SelectConfig, usable: int) -> list[str]:
    """A warning if regions of `usable` rows are too small to be verified on average."""
    least = not_verified(config.verify_per_region)
    pool = below_cut(usable, config.cut)
    regions, fewer = regions_for(config.regions, pool), fewer_regions(pool, least)
    if config.method != "staff" or pool > least * regions:
        return []
    return [
        f"{counted(regions, 'region is', 'regions are')} too many for {rows_of(pool)}: "
        f"regions of {rows_of(least)} or fewer are not "
        "verified on the target and get equal shares"
        + (f"; give fewer --regions (about {fewer})" if fewer < regions else "")
    ]
