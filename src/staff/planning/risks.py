"""Warnings before a run: what would go wrong, or not pay off."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from staff.data.prepare import Prepared
from staff.data.records import CHAT
from staff.methods import wanted_by
from staff.models.folder import local_folder, read_config
from staff.models.load import load_tokenizer
from staff.planning.shares import scorers, shard_rows_of
from staff.runs.config import SelectConfig
from staff.runs.plan_config import PlanConfig
from staff.selectors.regions import below_cut, regions_for
from staff.selectors.rounds import AUTO, fewer_regions, not_verified
from staff.stages.options import trust_of

if TYPE_CHECKING:
    from staff.planning.shape import Shape  # torch: what a dry run says may need no model

FULL = 0.9  # of a device's memory; the rest goes to its context and to fragments
SCORING = ("score small", "score alone", "verify", "score untuned")


def find(
    config: PlanConfig, prepared: Prepared, shapes: Mapping[str, "Shape"], plan: Mapping[str, Any]
) -> list[str]:
    """Warnings in words, the most serious first; plan: all of it but these."""
    return [
        *_memory(config, plan),
        *_size(shapes),
        *of_inputs(config, prepared),
        *_shards(config, prepared, plan),
        *_not_counted(config, plan),
        *_worth(plan),
    ]


def of_inputs(config: SelectConfig, prepared: Prepared) -> list[str]:
    """Those that follow from data, tokenizers and settings, whatever a run costs."""
    tokenizers = _tokenizers(config)
    return [
        *_family(config, tokenizers),
        *_cut(config, prepared),
        *_chat(prepared, tokenizers),
        *_regions(config, prepared),
    ]


def _tokenizers(config: SelectConfig) -> dict[str, Any]:
    """By role, of a selection that scores; none where no target was named."""
    if config.target is None or not wanted_by(config):
        return {}
    models = {"small": config.small, "target": config.target}
    return {
        role: load_tokenizer(model, weights=False, trust=trust_of(config))
        for role, model in models.items()
        if model is not None
    }


def _memory(config: PlanConfig, plan: Mapping[str, Any]) -> Iterator[str]:
    room = plan["device"]["memory"]
    for stage in plan["stages"]:
        if not room or not stage["memory"] or stage["memory"] <= FULL * room:
            continue
        name, device = stage["name"].partition(",")[0], plan["device"]["name"]
        needs = f"{name} needs {_gigabytes(stage['memory'])}, {device} has {_gigabytes(room)}; "
        if stage["kind"] in SCORING and _spread_freely(config, plan):
            yield f"{needs}--device-map places the rest elsewhere"
            continue
        yield (
            f"memory is too small: {needs}lower --micro-batch-size, --batch-tokens or "
            "--max-length, or see --quantize, --activation-checkpointing and --fsdp"
        )


def _spread_freely(config: PlanConfig, plan: Mapping[str, Any]) -> bool:
    """Whether no limit was given on how much of a spread model may be on the device."""
    return config.device_map != "none" and plan["device"]["room"] is None


def _size(shapes: Mapping[str, "Shape"]) -> Iterator[str]:
    # Of routed experts those that a token meets: the others take memory, but no time.
    small, target = (shapes[role].met for role in ("small", "target"))
    if 2 * small > target:
        yield (
            f"the small model has {small / target:.0%} of the target's active parameters: "
            "selection costs about as much as it saves"
        )


def _family(config: SelectConfig, tokenizers: Mapping[str, Any]) -> Iterator[str]:
    if len(tokenizers) < 2:
        return
    folders = {
        role: local_folder(str(getattr(config, role)), weights=False, trust=trust_of(config))
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


def _cut(config: SelectConfig, prepared: Prepared) -> Iterator[str]:
    if prepared.truncated:
        longest = max(int(store.lengths.max()) for store in prepared.stores)
        shorter = "raise --max-length, or " if config.max_length else ""  # else it is the maximum
        yield (
            f"{prepared.truncated:,} of {prepared.usable:,} responses are truncated at "
            f"{longest:,} tokens: {shorter}use models with a longer context"
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


def _shards(config: PlanConfig, prepared: Prepared, plan: Mapping[str, Any]) -> Iterator[str]:
    processes = scorers(config)
    for stage in plan["stages"]:
        if processes == 1 or stage["kind"] not in SCORING:
            continue
        name = stage["name"].partition(",")[0]
        store = prepared.stores[-1 if stage["kind"] == "verify" else 0]
        shard_rows = shard_rows_of(config, stage["kind"], store)
        found = -(-stage["rows"] // shard_rows)
        if found < processes:
            yield (
                f"{name}: {found} shard{'' if found == 1 else 's'} for {processes} processes, so "
                f"{processes - found} have nothing to do; lower --shard-rows"
                + (f" below {shard_rows}" if shard_rows < config.shard_rows else "")
            )


def _not_counted(config: PlanConfig, plan: Mapping[str, Any]) -> Iterator[str]:
    """Effects of settings that the figures do not include."""
    if config.probe:
        if config.fsdp:
            yield "--fsdp is not counted: --probe measures the whole model in one process"
        if config.executor == "ray":
            yield "--executor ray is not counted: --probe measures one process"
        return
    if config.fsdp and config.processes == 1:
        yield (
            "--fsdp is not counted because the number of processes is unknown: give --processes N"
        )
    elif config.fsdp and config.quantized("target") != "none":
        yield "--fsdp is not counted for the target: it does not shard quantised weights"
    if config.executor == "ray" and config.workers is None:
        yield (
            "--executor ray is counted as one worker because the number depends on the cluster: "
            "give --workers N"
        )
    if config.verify_per_region == AUTO and "verify" in wanted_by(config) and scorers(config) > 1:
        yield (
            "verify on target: each round's rows are divided among the processes separately, "
            "which is not counted"
        )
    if config.device_map != "none":
        yield "--device-map: the time to move weights to the device is not counted" + (
            ", and the memory for scoring assumes the whole model on it, unless --max-memory is set"
            if _spread_freely(config, plan)
            else ""
        )
    if config.padding_free:
        yield "--padding-free is not counted: batches are assumed to be padded"
    if plan["unit"] == "seconds":
        if {config.quantized("small"), config.quantized("target")} != {"none"}:
            yield "--quantize: the time to dequantise weights is not counted"
        if max(plan["processes"].values()) > 1:
            yield "communication between processes and their start-up are not counted"


def _regions(config: SelectConfig, prepared: Prepared) -> Iterator[str]:
    least = not_verified(config.verify_per_region)
    pool = below_cut(prepared.usable, config.cut)
    regions, fewer = regions_for(config.regions, pool), fewer_regions(pool, least)
    if config.method == "staff" and pool <= least * regions:
        yield (
            f"{regions} regions are too many for {pool:,} rows: regions of {least} rows or fewer "
            "are not verified on the target and get equal shares"
            + (f"; give fewer --regions (about {fewer})" if fewer < regions else "")
        )


def _worth(plan: Mapping[str, Any]) -> Iterator[str]:
    for coreset in plan["coresets"]:
        if coreset["left"] <= 0:
            yield f"selection does not pay off at {coreset['name']}: it costs more than it saves"


def _gigabytes(amount: float) -> str:
    return f"{amount / 1e9:,.1f} GB"
