"""What each stage of a selection costs, and fine-tuning the target on all rows.

FLOPs and memory come from the models' configurations, time from a device's figures or from a
probe.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from staff.data.prepare import Prepared
from staff.planning import flops, memory
from staff.planning.counts import passes
from staff.planning.devices import Device
from staff.planning.place import on_cpu
from staff.planning.probe import Measured, spread
from staff.planning.shape import Shape
from staff.planning.shares import FEW, micro_work, scoring_share, shard_rows_of, shares
from staff.planning.work import scoring_work, tuning_work, without_prompts
from staff.runs.plan_config import PlanConfig
from staff.stages.draws import rows_to_score, sample
from staff.training.parts import MULTIPLE
from staff.training.tokens import Tokens

TUNE_TARGET = "tune target"


@dataclass(frozen=True, slots=True)
class Cost:
    """One stage. padded_tokens: with what fills batches up; memory in bytes at its peak.

    memory is that of one device, and share the part of the operations that the process with most
    of them does: 1 where one does all. seconds: None where nothing says how fast the device is.
    setup_seconds: of these what does not grow with the rows, where that was measured.
    """

    name: str
    kind: str
    rows: int
    tokens: int = 0
    padded_tokens: int = 0
    flops: float = 0.0
    share: float = 1.0
    memory: int | None = None
    seconds: float | None = None
    setup_seconds: float | None = None


def stage_cost(
    config: PlanConfig,
    stage: Mapping[str, Any],
    prepared: Prepared,
    shapes: Mapping[str, Shape],
    *,
    size: int,
    room: int | None,
    cpu: bool,
) -> Cost:
    """One stage of the selection: its operations and memory; room: as `place.room_of` gives it."""
    kind = stage["kind"]
    cost = Cost(stage["name"], kind, stage["rows"], stage.get("tokens", 0))
    own, others = prepared.stores[0], prepared.stores[-1]
    shard_rows = shard_rows_of(config, kind, others if kind == "verify" else own)
    scoring = partial(scoring_work, batch_tokens=config.batch_tokens, shard_rows=shard_rows)
    if kind == "tune small":
        rows = sample(own, config.finetune_on, seed=config.seed)
        return _tune(cost, config, rows, shapes, "small", size=size)
    if kind == "verify":
        chosen = spread(others.lengths, stage["rows"])
        work, role = scoring(others, chosen), "target"
    elif kind == "score untuned":
        work, role = scoring(own, spread(own.lengths, stage["rows"])), "small"
    elif kind == "score small":
        chosen = rows_to_score(own, config.score_on, seed=config.seed)
        work, role = scoring(own, chosen), "small"
    elif kind == "score alone":
        work, role = scoring(own), "small"
    else:
        return cost
    shape, quantize = shapes[role], config.quantized(role)
    if kind == "score alone":  # the responses without their prompts, forward only
        work = without_prompts(work, own)
        operations = flops.forward(shape, work)
    else:
        operations = flops.score(shape, work, phi=config.phi)
    used = memory.score(
        shape, work, size=size, phi=config.phi, quantize=quantize, room=room, cpu=cpu
    )
    return replace(
        cost,
        padded_tokens=int(work.padded.sum()),
        flops=float(operations.sum()),
        share=scoring_share(config, work, operations, shard_rows=shard_rows),
        memory=used,
    )


def tuning_cost(
    config: PlanConfig, target: Tokens, shapes: Mapping[str, Shape], *, size: int
) -> Cost:
    """Fine-tuning the target on everything: what a coreset saves a part of."""
    tokens = config.epochs * int(target.lengths.sum())
    name = f"tune target on all, {passes(config.epochs)}"
    cost = Cost(name, TUNE_TARGET, len(target.lengths), tokens)
    return _tune(cost, config, target, shapes, "target", size=size)


def _tune(
    cost: Cost,
    config: PlanConfig,
    rows: Tokens,
    shapes: Mapping[str, Shape],
    role: str,
    *,
    size: int,
) -> Cost:
    work = tuning_work(
        rows,
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
        multiple=MULTIPLE if size < 4 else 1,
    )
    shape, again, quantize = shapes[role], config.activation_checkpointing, config.quantized(role)
    dealt, micro = shares(work, rows, config.processes), config.micro_batch_size
    operations, most = (
        float(flops.finetune(shape, part, checkpointing=again).sum()) for part in (work, dealt[0])
    )
    used = max(
        memory.finetune(
            shape,
            micro_work(part, rows, micro),
            size=size,
            quantize=quantize,
            checkpointing=again,
            processes=config.processes if config.fsdp and quantize == "none" else 1,
        )
        for part in dealt
    )
    padded = int(work.padded.sum())
    return replace(
        cost, padded_tokens=padded, flops=operations, share=most / operations, memory=used
    )


def timed(
    cost: Cost,
    config: PlanConfig,
    device: Device | None,
    size: int,
    measured: Mapping[str, Measured],
    read_seconds: float,
) -> Cost:
    """The stage with its seconds, measured where it was, and memory measured or with the host's."""
    if cost.kind == "read":
        return replace(cost, seconds=read_seconds)
    if found := measured.get(cost.kind):
        if cost.kind in FEW:
            cost = _of_so_many(cost, found.rows)
        return replace(
            cost,
            seconds=found.seconds,
            setup_seconds=found.setup_seconds,
            memory=found.memory,
        )
    if cost.flops and device is not None and size < 4:
        speed = device.flops * config.utilisation
        return replace(cost, seconds=cost.share * cost.flops / speed)
    if cost.memory and on_cpu(config, device):
        return replace(cost, memory=cost.memory + memory.HOST)
    return cost


def _of_so_many(cost: Cost, rows: int) -> Cost:
    """Verification of as many rows as the probe's scores lead one to expect."""
    share = rows / cost.rows
    return replace(
        cost,
        name=cost.name.replace("at most", "about"),
        rows=rows,
        tokens=round(share * cost.tokens),
        padded_tokens=round(share * cost.padded_tokens),
        flops=share * cost.flops,
    )
