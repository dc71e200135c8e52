"""What a selection costs and whether it pays off, before it is run: `staff plan`.

The stages and their rows are those of --dry-run (`staff.planning.counts`); here each gets its
FLOPs and memory from the models' configurations, and its time from a device's figures or from a
probe.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from staff import __version__
from staff.data.files import open_source
from staff.data.prepare import Prepared
from staff.pipeline import counting_models, requested_sizes
from staff.planning import risks
from staff.planning.costs import TUNE_TARGET, Cost, stage_cost, timed, tuning_cost
from staff.planning.counts import counts, stages_of, tokenised
from staff.planning.place import device_facts, device_of, number_bytes, room_of
from staff.planning.probe import Measured, probe
from staff.planning.shape import Shape, read_shape
from staff.planning.shares import scorers
from staff.planning.worth import worth
from staff.progress import Progress
from staff.runs.plan_config import PlanConfig
from staff.stages.options import trust_of

SELECTION = ("tune small", "score small", "score alone", "verify")


def estimate(config: PlanConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Read and tokenise the data, weigh, and with ``config.probe`` measure; nothing stays.

    Returns what `staff plan --json` prints (docs/plan.md).

    Raises:
        ConfigError: a device that is not known, or a size beyond the data. DataError, ModelError.
    """
    device = device_of(config)
    size = number_bytes(config, device)
    start = time.monotonic()
    models = counting_models(config)
    with tokenised(config, open_source(str(config.data)), models, progress) as prepared:
        read_seconds = time.monotonic() - start
        small, target = prepared.stores[0], prepared.stores[-1]
        sizes = requested_sizes(config, prepared.usable, target.lengths)
        shapes = {
            "small": read_shape(str(config.small), trust=trust_of(config)),
            "target": read_shape(str(config.target), trust=trust_of(config)),
        }
        measured: dict[str, Measured] = {}
        if config.probe:
            measured = probe(config, small.path, target.path, progress=progress)
        costs = [
            *(
                stage_cost(config, stage, prepared, shapes, size=size, room=room_of(config, device))
                for stage in stages_of(config, prepared)
            ),
            tuning_cost(config, target, shapes, size=size),
        ]
        costs = [timed(cost, config, device, size, measured, read_seconds) for cost in costs]
        total = int(target.lengths.sum())
        keeps = {
            name: (wanted.rows / prepared.usable if wanted.rows else (wanted.tokens or 0) / total)
            for name, wanted in sizes.items()
        }
        result = {
            "command": "plan",
            "staff": __version__,
            **_facts(config, prepared, shapes),
            "device": device_facts(config, device, size),
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
