"""What a selection costs and whether it pays, before it is run: `staff plan`.

The stages and their rows are those of --dry-run (`staff.planning.counts`); here each gets its
operations and memory from the models' configurations, and its time from a device's figures or
from a probe.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from staff import __version__, stages
from staff.data.files import open_source
from staff.data.prepare import Prepared
from staff.errors import ConfigError
from staff.models.load import choose_device
from staff.pipeline import counting_models, requested_sizes
from staff.planning import flops, memory, peak, risks
from staff.planning.counts import counts, passes, reading, stages_of
from staff.planning.devices import DEVICES, Device
from staff.planning.probe import Measured, probe, spread
from staff.planning.shape import Shape, read_shape
from staff.planning.shares import micro_work, scorers, scoring_share, shares
from staff.planning.work import Work, scoring_work, tuning_work
from staff.planning.worth import worth
from staff.progress import Progress
from staff.runs.plan_config import PlanConfig
from staff.runs.settings import parse_room
from staff.training.tokens import Tokens

TUNE_TARGET = "tune target"
SELECTION = ("tune small", "score small", "score alone", "verify")
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Cost:
    """One stage. padded_tokens: with what fills batches up; memory in bytes at its peak.

    memory is that of one device, and share the part of the operations that the process with most
    of them does: 1 where one does all. seconds: None where nothing says how fast the device is.
    setup_seconds: of these before the first batch, where they were measured.
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


def estimate(config: PlanConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Read and tokenise the data, weigh, and with ``config.probe`` measure; nothing stays.

    Returns what `staff plan --json` prints (docs/plan.md).

    Raises:
        ConfigError: a device that is not known, or a size beyond the data. DataError, ModelError.
    """
    device = _device(config)
    size = _number_bytes(config, device)
    start = time.monotonic()
    models = counting_models(config)
    with reading(config, open_source(str(config.data)), models, progress) as prepared:
        read_seconds = time.monotonic() - start
        small, target = prepared.stores[0], prepared.stores[-1]
        sizes = requested_sizes(config, prepared.usable, target.lengths)
        shapes = {
            "small": read_shape(str(config.small), trust=stages.trust_of(config)),
            "target": read_shape(str(config.target), trust=stages.trust_of(config)),
        }
        measured: dict[str, Measured] = {}
        if config.probe:
            measured = probe(config, small.path, target.path, progress=progress)
        costs = [
            *(
                _stage(config, stage, prepared, shapes, size=size, room=_room(config, device))
                for stage in stages_of(config, prepared)
            ),
            _tuning(config, target, shapes, size=size),
        ]
        costs = [_timed(cost, config, device, size, measured, read_seconds) for cost in costs]
        total = int(target.lengths.sum())
        keeps = {
            name: (wanted.rows / prepared.usable if wanted.rows else (wanted.tokens or 0) / total)
            for name, wanted in sizes.items()
        }
        result = {
            "command": "plan",
            "staff": __version__,
            **_facts(config, prepared, shapes),
            "device": _device_facts(config, device, size),
            "processes": {"tuning": config.processes, "scoring": scorers(config)},
            "stages": [asdict(cost) for cost in costs],
            **_balance(config, costs, keeps, n=prepared.usable),
        }
        result["warnings"] = risks.find(config, prepared, shapes, result)
        return result


def _facts(
    config: PlanConfig, prepared: Prepared, shapes: Mapping[str, Shape]
) -> dict[str, dict[str, Any]]:
    """The data, as the target's tokenizer counts them, and the models."""
    lengths = prepared.stores[-1].lengths
    data = {
        "path": str(config.data),
        **{name.replace(" ", "_"): value for name, value in counts(prepared).items()},
        "tokens": int(lengths.sum()),
        "median": int(np.median(lengths)),
        "longest": int(lengths.max()),
    }
    models = {
        role: {
            "path": getattr(config, role),
            "parameters": shape.parameters,
            "quantize": config.quantized(role),
        }
        for role, shape in shapes.items()
    }
    return {"data": data, "models": models}


def _device(config: PlanConfig) -> Device | None:
    """The table's device; None where the plan is of this machine, or of none that is known."""
    found = DEVICES.get(config.device.lower())
    if found and config.probe:
        raise ConfigError(
            f"--probe times this machine, not {found.name}: leave --device out, or give cpu or cuda"
        )
    if found or config.device in ("auto", "cpu", "mps") or config.device.startswith("cuda"):
        return found
    raise ConfigError(
        f"device {config.device!r} is not in the table: give one of {', '.join(DEVICES)}, or "
        "measure on this machine with --probe"
    )


def _number_bytes(config: PlanConfig, device: Device | None) -> int:
    """Bytes of a weight: as the settings come to here, or bfloat16 on a device of the table."""
    if device is not None:
        return DTYPE_BYTES["bfloat16" if config.dtype == "auto" else config.dtype]
    return DTYPE_BYTES[stages.device_used(config)["dtype"]]


def _room(config: PlanConfig, device: Device | None) -> int | None:
    """Most bytes of a spread model that --max-memory leaves to one device, the largest of them."""
    if config.device_map == "none" or config.max_memory is None:
        return None
    room, place = parse_room(config.max_memory), None
    if device is None:
        place = choose_device(config.device)
        if place.type == "cpu":
            return room.get("cpu")
    named = {name: most for name, most in room.items() if name != "cpu"}
    if place is not None and place.index is not None:
        return named.get(place.index)
    return max(named.values(), default=None)


def _device_facts(config: PlanConfig, device: Device | None, size: int) -> dict[str, Any]:
    bits = 8 * size
    if device is not None:
        facts = {**asdict(device), "unconfirmed": list(device.unconfirmed)}
        return {
            **facts,
            "room": _room(config, device),
            "utilisation": config.utilisation,
            "bits": bits,
            "probe": False,
        }
    name = str(choose_device(config.device))
    return {
        "name": name,
        "flops": None,
        "memory": peak.available(name),
        "room": _room(config, device),
        "source": None,
        "unconfirmed": [],
        "utilisation": None,
        "bits": bits,
        "probe": config.probe,
    }


def _stage(
    config: PlanConfig,
    stage: Mapping[str, Any],
    prepared: Prepared,
    shapes: Mapping[str, Shape],
    *,
    size: int,
    room: int | None,
) -> Cost:
    """One stage of the selection with its operations and memory; room: as `_room` gives it."""
    kind = stage["kind"]
    cost = Cost(stage["name"], kind, stage["rows"], stage.get("tokens", 0))
    own, others = prepared.stores[0], prepared.stores[-1]
    scoring = partial(scoring_work, batch_tokens=config.batch_tokens, shard_rows=config.shard_rows)
    if kind == "tune small":
        rows = stages.sample(own, config.finetune_on, seed=config.seed)
        return _tune(cost, config, rows, shapes, "small", size=size)
    if kind == "verify":
        chosen = spread(others.lengths, stage["rows"])
        work, role = scoring(others, chosen), "target"
    elif kind == "score small":
        chosen = stages.rows_to_score(own, config.score_on, seed=config.seed)
        work, role = scoring(own, chosen), "small"
    elif kind == "score alone":
        work, role = scoring(own), "small"
    else:
        return cost
    shape, quantize = shapes[role], config.quantized(role)
    if kind == "score alone":  # the responses without their prompts, forward only
        work = Work(work.places, work.rows, work.responses / work.rows, work.responses)
        operations = flops.forward(shape, work)
    else:
        operations = flops.score(shape, work, phi=config.phi)
    used = memory.score(shape, work, size=size, phi=config.phi, quantize=quantize, room=room)
    return replace(
        cost,
        padded_tokens=int(work.padded.sum()),
        flops=float(operations.sum()),
        share=scoring_share(config, kind, work, operations),
        memory=used,
    )


def _tuning(config: PlanConfig, target: Tokens, shapes: Mapping[str, Shape], *, size: int) -> Cost:
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
    work = tuning_work(rows, batch_size=config.batch_size, epochs=config.epochs, seed=config.seed)
    shape, again, quantize = shapes[role], config.activation_checkpointing, config.quantized(role)
    dealt, micro = shares(work, rows, config.processes), config.micro_batch_size
    operations, most = (
        float(flops.finetune(shape, part, checkpointing=again).sum()) for part in (work, dealt[0])
    )
    used = max(
        memory.finetune(
            shape,
            micro_work(part, rows, micro) if micro else part,
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


def _timed(
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
        if cost.kind == "verify":
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
    if cost.memory and device is None and choose_device(config.device).type == "cpu":
        return replace(cost, memory=cost.memory + memory.HOST)
    return cost


def _of_so_many(cost: Cost, rows: int) -> Cost:
    """Verification of as many rows as the probe's scores lead one to expect."""
    share = rows / cost.rows
    return replace(
        cost,
        name="verify on target, about",
        rows=rows,
        tokens=round(share * cost.tokens),
        padded_tokens=round(share * cost.padded_tokens),
        flops=share * cost.flops,
    )


def _balance(
    config: PlanConfig, costs: Sequence[Cost], keeps: Mapping[str, float], *, n: int
) -> dict[str, Any]:
    """Selection against tuning: their ratio, and the worth of every coreset.

    In seconds where every stage has them, else in operations. Reading counts for neither: a
    tuning reads the data as well.
    """
    selection = [cost for cost in costs if cost.kind in SELECTION]
    [tuning] = [cost for cost in costs if cost.kind == TUNE_TARGET]
    timed = tuning.seconds is not None and all(c.seconds is not None for c in selection)

    def price(cost: Cost) -> float:
        return (cost.seconds or 0.0) if timed else cost.flops

    fixed = sum(price(cost) for cost in selection if cost.kind == "verify")
    per_row = sum(price(cost) for cost in selection if cost.kind != "verify")
    coresets = []
    for name, keep in keeps.items():
        found = worth(
            keep=keep,
            n=n,
            epochs=config.epochs,
            tuning=price(tuning),
            per_row=per_row,
            fixed=fixed,
        )
        coresets.append({"name": name, "keep": keep, "cost": keep * price(tuning), **asdict(found)})
    peaks = [cost.memory for cost in selection if cost.memory]
    return {
        "unit": "seconds" if timed else "flops",
        "selection": {
            "flops": sum(cost.flops for cost in selection),
            "seconds": per_row + fixed if timed else None,
            "memory": max(peaks) if peaks else None,
        },
        "ratio": (per_row + fixed) / price(tuning),
        "coresets": coresets,
    }
