"""Warnings before a run: what would go wrong, or not pay off."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from staff.data.prepare import Prepared
from staff.foreseen import warnings_of
from staff.methods import wanted_by
from staff.planning.shares import scorers, shard_rows_of
from staff.runs.plan_config import PlanConfig
from staff.selectors.rounds import AUTO
from staff.words import counted

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
        *warnings_of(config, prepared),
        *_shards(config, prepared, plan),
        *_not_counted(config, plan),
        *_worth(plan),
    ]


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
            f"the small model has {small / target:.0%} of the target's active parameters: with a "
            "smaller one selection costs less"
        )


def _shards(config: PlanConfig, prepared: Prepared, plan: Mapping[str, Any]) -> Iterator[str]:
    most = config.batch_size
    if (idle := config.processes - most) > 0:
        yield (
            f"fine-tuning: --batch-size {most} for {config.processes} processes, so "
            f"{counted(idle, 'has', 'have')} nothing to do: all share a step's rows"
        )
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
                f"{name}: {counted(found, 'shard')} for {processes} processes, so "
                f"{counted(processes - found, 'has', 'have')} nothing to do; lower --shard-rows"
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


def _worth(plan: Mapping[str, Any]) -> Iterator[str]:
    for coreset in plan["coresets"]:
        if coreset["left"] <= 0:
            yield f"selection does not pay off at {coreset['name']}: it costs more than it saves"


def _gigabytes(amount: float) -> str:
    return f"{amount / 1e9:,.1f} GB"
