"""What would go wrong, or not pay, told before it does."""

from collections.abc import Iterator, Mapping
from typing import Any

from staff import stages
from staff.data.prepare import Prepared
from staff.models.folder import local_folder, read_config
from staff.models.load import load_tokenizer
from staff.planning.shape import Shape
from staff.runs.plan_config import PlanConfig
from staff.selectors.arguments import count_of
from staff.selectors.rounds import not_verified

FULL = 0.9  # of a device's memory; the rest goes to its context and to fragments
CHATS = ("messages", "sharegpt")


def find(
    config: PlanConfig, prepared: Prepared, shapes: Mapping[str, Shape], plan: Mapping[str, Any]
) -> list[str]:
    """Warnings in plain words, the gravest first; plan: all but these."""
    return [
        *_memory(plan),
        *_family(config, shapes),
        *_cut(config, prepared),
        *_chat(config, prepared),
        *_regions(config, prepared),
        *_worth(plan),
    ]


def _memory(plan: Mapping[str, Any]) -> Iterator[str]:
    room = plan["device"]["memory"]
    for stage in plan["stages"]:
        if room and stage["memory"] and stage["memory"] > FULL * room:
            yield (
                f"memory is too small: {stage['name'].partition(',')[0]} needs "
                f"{_gigabytes(stage['memory'])}, {plan['device']['name']} has {_gigabytes(room)}; "
                "lower --batch-size, --batch-tokens or --max-length, or see --quantize and "
                "--activation-checkpointing"
            )


def _family(config: PlanConfig, shapes: Mapping[str, Shape]) -> Iterator[str]:
    trust = stages.trust_of(config)
    folders = {
        role: local_folder(str(getattr(config, role)), weights=False, trust=trust)
        for role in ("small", "target")
    }
    kinds = {role: read_config(folder)["model_type"] for role, folder in folders.items()}
    if kinds["small"] != kinds["target"]:
        yield (
            f"the small model is of another family: it is a {kinds['small']}, the target a "
            f"{kinds['target']}"
        )
    tokens = [
        load_tokenizer(str(getattr(config, role)), weights=False, trust=trust).get_vocab()
        for role in ("small", "target")
    ]
    if tokens[0] != tokens[1]:
        yield (
            "the tokenizers have different vocabularies, so the two models' scores are of "
            "different tokens"
        )
    small, target = (shapes[role].parameters for role in ("small", "target"))
    if 2 * small > target:
        yield (
            f"the small model has {small / target:.0%} of the target's parameters: selection costs "
            "about as much as it saves"
        )


def _cut(config: PlanConfig, prepared: Prepared) -> Iterator[str]:
    if prepared.truncated:
        longest = max(int(store.lengths.max()) for store in prepared.stores)
        shorter = "raise --max-length, or " if config.max_length else ""  # else as long as can be
        yield (
            f"{prepared.truncated:,} of {prepared.usable:,} responses are cut at {longest:,} "
            f"tokens: {shorter}take models with a longer context"
        )


def _chat(config: PlanConfig, prepared: Prepared) -> Iterator[str]:
    if prepared.format in CHATS:  # without a template these could not be read at all
        return
    tokenizer = load_tokenizer(str(config.target), weights=False, trust=stages.trust_of(config))
    if tokenizer.chat_template:
        yield (
            "the target has a chat template, and the data are no conversations: they are tuned on "
            "as plain text; give messages if the target is to answer in a chat"
        )


def _regions(config: PlanConfig, prepared: Prepared) -> Iterator[str]:
    least = not_verified(config.verify_per_region)
    pool = prepared.usable - count_of(config.cut, prepared.usable)
    if config.method == "staff" and pool <= least * config.regions:
        yield (
            f"{config.regions} regions of {pool:,} rows are too small: those of {least} rows or "
            "fewer are not verified on the target, and take equal shares; give fewer "
            f"--regions, {max(2, pool // (2 * least))} or so"
        )


def _worth(plan: Mapping[str, Any]) -> Iterator[str]:
    for coreset in plan["coresets"]:
        if coreset["left"] <= 0:
            yield f"selection does not pay at {coreset['name']}: it costs more than it saves"


def _gigabytes(amount: float) -> str:
    return f"{amount / 1e9:,.1f} GB"
