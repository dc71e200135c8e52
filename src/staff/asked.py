"""What a selection asks for, before anything is computed: models, their tokenizers, sizes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from staff.data.tokenise import Tokeniser
from staff.errors import ConfigError
from staff.methods import wanted_by
from staff.progress import Progress
from staff.runs.config import SelectConfig
from staff.runs.settings import coreset_name
from staff.selectors import total_of
from staff.selectors.arguments import count_of
from staff.selectors.compose import Size, Wishes, check_wishes
from staff.stages.draws import check_score_on
from staff.stages.facts import check_phi, model_facts, tokenisers_of
from staff.stages.options import trust_of
from staff.types import Ints
from staff.words import counted


def models_of(config: SelectConfig) -> dict[str, str]:
    """Role -> model, of those that the method scores with or is to be trained."""
    named = {"small": config.small, "target": config.target}
    return {r: str(m) for r, m in named.items() if m and wanted_by(config)}


def counting_models(config: SelectConfig) -> list[str]:
    """The models whose tokenizers read the data; the last one's tokens count."""
    models = list(models_of(config).values())
    if not models and config.counts_tokens:
        return [str(config.counting_model)]
    return models


def requested_sizes(config: SelectConfig, n: int, lengths: Ints | None = None) -> dict[str, Size]:
    """Coreset name -> its size, in the order asked for, of n usable rows.

    lengths: int [n], tokens a row; without them sizes in tokens are not worked out.

    Raises:
        ConfigError: a total above n, or a fraction that keeps nothing.
    """
    sizes: dict[str, Size] = {}
    for keep in config.keep:
        if config.keep_of == "rows":
            sizes[coreset_name(keep)] = Size(rows=total_of(keep, n))
        elif lengths is not None:
            n_tokens = int(lengths.sum())
            if not (tokens := count_of(keep, n_tokens)):
                raise ConfigError(
                    f"keep {keep} of {counted(n_tokens, 'token')} is less than one token; keep more"
                )
            sizes[coreset_name(keep)] = Size(tokens=tokens)
    for total in config.total:
        if total > n:
            raise ConfigError(f"--total {total}: the data has only {counted(n, 'usable row')}")
        sizes[f"n{total}"] = Size(rows=total)
    for tokens in config.tokens if lengths is not None else ():
        sizes[f"t{tokens}"] = Size(tokens=tokens)
    return sizes


def check_asked(
    config: SelectConfig, sizes: Mapping[str, Size], wishes: Wishes, *, usable: int
) -> None:
    """Raise what sizes, wishes and settings do not allow of so many usable rows.

    Of a selection and of its dry run, before anything is computed.
    """
    check_wishes(sizes, wishes)
    wanted = wanted_by(config)
    if wanted:
        check_score_on(config.score_on, usable)
    if "verify" in wanted:
        config.check_cap(int(np.count_nonzero(wishes.free)))


def look_at_models(
    config: SelectConfig, *, progress: Progress | None = None
) -> tuple[list[Tokeniser], dict[str, dict[str, Any]]]:
    """The tokenisers, and the manifest's facts of every model; none is loaded.

    Raises ModelError where φ is not found in one that is to score.
    """
    models = models_of(config)
    for model in models.values() if "verify" in wanted_by(config) else [*models.values()][:1]:
        check_phi(config, model)
    tokenisers = tokenisers_of(
        counting_models(config), max_length=config.max_length, trust=trust_of(config)
    )
    if not models:
        return tokenisers, {}
    return tokenisers, model_facts(
        adapter=config.adapter,
        quantize=config.quantized,
        trust=trust_of(config),
        progress=progress,
        **models,
    )
