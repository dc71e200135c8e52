"""The fast path of scoring held against plain autograd, on a user's model and rows."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from staff.data.files import open_source
from staff.models.device import choose_device
from staff.models.load import load_model
from staff.models.quantised import NONE, dequantise_into
from staff.models.value_projection import find_value_projection
from staff.progress import Progress, SilentProgress
from staff.runs.config import CheckModelConfig
from staff.scores.check import fast_path, hold_against_oracle
from staff.scores.effort import Scorer
from staff.selectors.agreement import rank_correlation
from staff.stages import draws, reading
from staff.stages.facts import tokenisers_of
from staff.stages.options import trust_of
from staff.types import Floats, Ints


def check_model(config: CheckModelConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Hold the fast path of scoring against the oracle on some rows; leaves no file.

    Of quantised weights the oracle takes the gradients of the dequantised ones.

    Returns ``layer`` (the value projection, None with another phi), ``rows``, ``tokens``,
    ``kernel``, ``left_out`` (attention kernels the model has not), ``comparisons`` (list of
    ``name``, ``largest`` and ``median`` relative difference to the oracle, ``row`` of the largest,
    ``rank`` correlation, ``judged``), ``seconds`` (``fast``, ``plain``) and ``agrees``.
    """
    model, trust = str(config.model), trust_of(config)
    choose_device(config.device)  # refuses one that is not there
    tokenisers = tokenisers_of((model,), max_length=config.max_length, trust=trust)
    with tempfile.TemporaryDirectory(prefix="staff-") as scratch:
        source = open_source(str(config.data))
        prepared = reading.read(config, source, tokenisers, folder=Path(scratch), progress=progress)
        store = prepared.stores[0]
        rows = draws.some(store, config.rows, seed=config.seed)
        examples = store.get(rows)
    load = partial(
        load_model, model, device=config.device, adapter=config.adapter,
        merge=config.phi != "adapter" and config.quantize == NONE, trust=trust,
    )  # fmt: skip
    exact = load(dtype="float32")
    place = str(next(exact.parameters()).device)
    layer = layer_facts(exact) if config.phi.startswith("last-value") else None
    show = (progress or SilentProgress()).stage("check", total=len(rows), unit="rows")
    beside: dict[str, Floats] = {}  # shown for comparison; does not count in `agrees`
    with show as stage:
        options: dict[str, Any] = {"phi": config.phi, "seed": config.seed}
        checked = exact
        if config.quantize != NONE:
            beside["not quantised"] = fast_path(Scorer(exact, signals=(), **options), examples)
            checked = load(dtype="float32", quantize=config.quantize)
            dequantise_into(checked, exact)
        found = hold_against_oracle(checked, examples, **options, exact=exact, note=stage.advance)
        del exact, checked  # one model at a time
        half = load(dtype="bfloat16", quantize=config.quantize)
        beside["bfloat16"] = fast_path(Scorer(half, signals=(), **options), examples)
    places = store.rows[rows]
    comparisons = [
        comparison(name, norms, found.truth, places, judged=True)
        for name, norms in found.norms.items()
    ]
    comparisons += [
        comparison(name, norms, found.truth, places, judged=False) for name, norms in beside.items()
    ]
    worst = max(one["largest"] for one in comparisons if one["judged"])
    return {
        "model": model,
        "device": place,
        "phi": config.phi,
        "quantize": config.quantize,
        "layer": layer,
        "rows": len(rows),
        "tokens": int(store.lengths[rows].sum()),
        "kernel": found.kernel,
        "left_out": list(found.left_out),
        "comparisons": comparisons,
        "seconds": {"fast": found.fast_seconds, "plain": found.oracle_seconds},
        "tolerance": config.tolerance,
        "agrees": worst <= config.tolerance,
    }


def layer_facts(model: Any) -> dict[str, Any]:
    """Which layer's gradient is taken, of which size, and whether it is a slice of a fused one."""
    found = find_value_projection(model)
    size = [found.d_value, found.d_in]
    return {"name": found.name, "size": size, "fused": found.columns is not None}


def comparison(
    name: str, norms: Floats, truth: Floats, rows: Ints, *, judged: bool
) -> dict[str, Any]:
    """How far norms [n] are from the true ones, and of which row of the input the farthest is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = np.where(norms == truth, 0.0, np.abs(norms / truth - 1))
    apart = np.where(np.isfinite(apart), apart, np.inf)
    ranked = rank_correlation(truth, norms) if np.isfinite(norms).all() else None
    return {
        "name": name,
        "largest": float(apart.max()),
        "median": float(np.median(apart)),
        "row": int(rows[int(apart.argmax())]),
        "rank": None if ranked is None else ranked.value,
        "judged": judged,
    }
