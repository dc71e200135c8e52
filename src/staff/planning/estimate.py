"""What a selection costs and whether it pays off, before it is run: `staff plan`.

The stages and their rows are those of --dry-run (`staff.planning.counts`); here each gets its
FLOPs and memory from the models' configurations, and its time from a device's figures or from a
probe.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from staff import __version__
from staff.asked import counting_models
from staff.data.files import open_source
from staff.data.prepare import Prepared
from staff.planning import risks
from staff.planning.costs import TUNE_TARGET, Cost, stage_cost, timed, tuning_cost
from staff.planning.counts import asked_of, counts, stages_of, tokenised
from staff.planning.place import device_facts, device_of, number_bytes, on_cpu, room_of
from staff.planning.probe import START, START_TUNING, Measured, probe
from staff.planning.shape import Shape, read_shape
from staff.planning.shares import FEW, scorers
from staff.planning.worth import worth
from staff.progress import Progress
from staff.runs.manifest import FORMAT
from staff.runs.plan_config import PlanConfig
from staff.stages.options import trust_of

SELECTION = ("tune small", *risks.SCORING)


def estimate(config: PlanConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Read and tokenise the data, weigh, and with ``config.probe`` measure; nothing stays.

    Returns what `staff plan --json` prints (docs/plan.md).

    Raises:
        ConfigError: a device that is not known, or what the run refuses. DataError, ModelError.
    """
    device = device_of(config)
    size = number_bytes(config, device)
    models = counting_models(config)
    source = open_source(str(config.data))
    with tokenised(config, source, models, progress) as prepared:
        small, target = prepared.stores[0], prepared.stores[-1]
        sizes, free = asked_of(config, source, prepared)
        shapes = {role: _shape(config, role) for role in ("small", "target")}
        measured: dict[str, Measured] = {}
        if config.probe:
            measured = probe(config, small.path, target.path, progress=progress)
        room, cpu = room_of(config, device), on_cpu(config, device)
        costs = [
            *([Cost(START, START, 0)] if measured else []),
            *(
                stage_cost(config, stage, prepared, shapes, size=size, room=room, cpu=cpu)
                for stage in stages_of(config, prepared, free=free)
            ),
            tuning_cost(config, target, shapes, size=size),
        ]
        costs = [timed(cost, config, device, size, measured, prepared.seconds) for cost in costs]
        total = int(target.lengths.sum())
        keeps = {
            name: (
                wanted.rows / prepared.usable
                if wanted.rows
                else min(1.0, (wanted.tokens or 0) / total)  # of more tokens, all rows
            )
            for name, wanted in sizes.items()
        }
        result = {
            "format": FORMAT,
            "staff_version": __version__,
            "command": "plan",
            **_facts(config, prepared, shapes),
            "device": device_facts(config, device, size),
            "processes": {"tuning": config.processes, "scoring": scorers(config)},
            "stages": [asdict(cost) for cost in costs],
            **_balance(config, costs, keeps, measured, n=prepared.usable),
        }
        result["warnings"] = risks.find(config, prepared, shapes, result)
        return result


def _shape(config: PlanConfig, role: str) -> Shape:
    """The shape of a model, with the attention that the settings ask for."""
    shape = read_shape(str(getattr(config, role)), trust=trust_of(config))
    return (
        shape if config.attention == "auto" else replace(shape, eager=config.attention == "eager")
    )


def _facts(
    config: PlanConfig, prepared: Prepared, shapes: Mapping[str, Shape]
) -> dict[str, dict[str, Any]]:
    """The data, as the target's tokenizer counts them, and the models."""
    lengths = prepared.stores[-1].lengths
    data = {
        "path": str(config.data),
        "on_duplicate": config.on_duplicate,
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


def _balance(
    config: PlanConfig,
    costs: Sequence[Cost],
    keeps: Mapping[str, float],
    measured: Mapping[str, Measured],
    *,
    n: int,
) -> dict[str, Any]:
    """Selection against tuning: their ratio, and the worth of every coreset.

    In seconds where every stage has them, else in operations. Where seconds were measured, start,
    reading and set-up are among them, on both sides; else on neither.
    """
    selection = [cost for cost in costs if cost.kind in SELECTION]
    [tuning] = [cost for cost in costs if cost.kind == TUNE_TARGET]
    timed = tuning.seconds is not None and all(c.seconds is not None for c in selection)

    def price(cost: Cost) -> float:
        return (cost.seconds or 0.0) if timed else cost.flops

    def once(cost: Cost) -> float:
        return (cost.setup_seconds or 0.0) if timed else 0.0

    start = reading = start_tuning = 0.0
    if timed and measured:
        start, start_tuning = measured[START].seconds, measured[START_TUNING].seconds
        reading = sum(cost.seconds or 0.0 for cost in costs if cost.kind == "read")
    fixed = start + sum(price(c) if c.kind in FEW else once(c) for c in selection)
    per_row = reading + sum(price(c) - once(c) for c in selection if c.kind not in FEW)
    steps, setup = price(tuning) - once(tuning), once(tuning) + start_tuning
    coresets = []
    for name, keep in keeps.items():
        found = worth(
            keep=keep,
            n=n,
            epochs=config.epochs,
            tuning=steps,
            per_row=per_row,
            fixed=fixed,
            reading=reading,
            grows=name[0] not in "nt",  # --total and --tokens say how large it is
        )
        cost = setup + keep * (steps + reading)
        coresets.append({"name": name, "keep": keep, "cost": cost, **asdict(found)})
    peaks = [cost.memory for cost in selection if cost.memory]
    whole = setup + steps + reading
    return {
        "unit": "seconds" if timed else "flops",
        "selection": {
            "flops": sum(cost.flops for cost in selection),
            "seconds": per_row + fixed if timed else None,
            "memory": max(peaks) if peaks else None,
        },
        "tuning": {"flops": tuning.flops, "seconds": whole if timed else None},
        "ratio": (per_row + fixed) / whole,
        "coresets": coresets,
    }
