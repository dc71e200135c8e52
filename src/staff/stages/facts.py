"""What is known about a model before it is loaded: tokenizer, context, size and hash."""

from collections.abc import Callable, Sequence
from typing import Any

from staff.data.tokenise import Tokeniser
from staff.errors import ConfigError
from staff.models.quantised import NONE
from staff.models.trust import NO_TRUST, Trust
from staff.progress import Progress, SilentProgress
from staff.stages.options import trust_of


def tokenisers_of(
    models: Sequence[str],
    *,
    max_length: int | None,
    weights: bool = True,
    trust: Trust = NO_TRUST,
) -> list[Tokeniser]:
    """One tokeniser a model; all cut at the same length, by default the shortest context.

    weights: of Hub models, whether they are to be fetched too.

    Raises:
        ConfigError: `max_length` is more than a model's context.
    """
    from staff.models.folder import context_of, local_folder
    from staff.models.load import load_tokenizer

    limits = {
        model: context_of(local_folder(model, weights=weights, trust=trust)) for model in models
    }
    for model, limit in limits.items():
        if max_length and limit and max_length > limit:
            raise ConfigError(f"--max-length {max_length}: {model} takes at most {limit} tokens")
    length = max_length or min((x for x in limits.values() if x), default=None)
    return [
        Tokeniser(
            load_tokenizer(model, weights=weights, trust=trust), max_length=length, source=model
        )
        for model in models
    ]


def model_facts(
    *,
    adapter: str | None = None,
    quantize: Callable[[str], str] = lambda role: NONE,
    trust: Trust = NO_TRUST,
    progress: Progress | None = None,
    **models: str,
) -> dict[str, dict[str, Any]]:
    """Path, content hash and number of parameters by role; the revision of a Hub model.

    quantize: how the weights of a role are kept, which is told where it is not in full.
    adapter: one that goes on the first model; the hash of both together comes beside it.
    """
    from staff.models.folder import local_folder, model_hashes, revision_of
    from staff.models.weights import weight_files

    facts: dict[str, dict[str, Any]] = {}
    folders = [local_folder(path, trust=trust) for path in models.values()]
    files = [file for folder in folders for file in weight_files(folder)]
    size = sum(file.stat().st_size for file in files if file.is_file()) >> 20
    with (progress or SilentProgress()).stage("hash models", total=size, unit="MB") as stage:
        for role, path in models.items():
            with_it = None if facts else adapter
            alone, *both = model_hashes(path, with_it, trust=trust, read=stage.advance)
            facts[role] = {
                "path": path,
                "hash": alone,
                "parameters": count_parameters(path, trust=trust),
            }
            if (kept := quantize(role)) != NONE:
                facts[role]["quantize"] = kept
            if revision := revision_of(path, trust=trust):
                facts[role]["revision"] = revision
            for hash_of_both in both:
                facts[role]["adapter"] = {"path": with_it, "hash": hash_of_both}
    return facts


def end_tokens_hash(model: str, *, trust: Trust = NO_TRUST) -> str | None:
    """SHA-256 (hex) of what says how a model's answers end; None where nothing does."""
    from staff.models.folder import generation_hash

    return generation_hash(model, trust=trust)


def count_parameters(model: str, *, trust: Trust = NO_TRUST) -> int:
    """Numbers in a model's weight files; tied weights are stored, and counted, once.

    Raises ModelError for a file that is not whole.
    """
    from staff.models.folder import local_folder
    from staff.models.weights import count_numbers, weight_files

    return sum(map(count_numbers, weight_files(local_folder(model, trust=trust))))


def check_phi(config: Any, model: str) -> None:
    """Raise `ModelError` if the model has no value projection to score with, from its config."""
    if config.phi in ("last-value", "last-value-lora"):
        from staff.models.value_projection import check_value_projection

        check_value_projection(model, trust=trust_of(config))
