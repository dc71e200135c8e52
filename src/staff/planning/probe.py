"""Time a few real batches of every stage, and estimate the rest from them.

The batches of a stage are sorted by FLOPs and cut into groups; the middle batch of each group is
timed, once, and stands for its group in proportion to FLOPs. The largest comes first: it warms up,
and its memory is the stage's peak. Everything runs in a process of its own with the code of the
real commands, so the times include starting, importing and loading: what takes its time once,
however many rows there are, is all that passes beside the batches.
"""

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from staff.asked import look_at_models
from staff.data.batches import collate
from staff.data.store import TokenStore
from staff.errors import StaffError
from staff.methods import wanted_by
from staff.models.device import choose_device
from staff.models.load import load_tokenizer
from staff.models.memory import release_memory
from staff.planning import flops, peak
from staff.planning.shape import Shape, read_shape
from staff.planning.shares import shard_rows_of
from staff.planning.work import Work, scoring_work, tuning_work
from staff.progress import Progress, SilentProgress
from staff.runs.plan_config import PlanConfig
from staff.scores.alone import start_token
from staff.scores.shards import canonical, part_path, write_part
from staff.selectors.regions import below_cut, regions_for, stratify
from staff.selectors.rounds import not_verified
from staff.stages.draws import rows_to_score, sample
from staff.stages.facts import model_facts, tokenisers_of
from staff.stages.lazy_scorer import LazyScorer
from staff.stages.options import device_used, trust_of
from staff.training.finetune import quiet
from staff.types import Floats, Ints

# Scoring has few batches, and each takes long.
STEPS, BATCHES = 16, 8
# Steps of so few operations that 64 take half a minute at most: the shorter they are, the more one
# differs from the next, and memory grows for longer than 16 of them show.
CHEAP = 3e10
# On a CPU in bfloat16, oneDNN makes code for every length of a step, and keeps up to 1,024 pieces:
# 1 GB even with a small model. It takes many steps to see that, and what it takes to make them.
MANY_STEPS = 64
START, START_TUNING = "start", "start of tuning"
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Measured:
    """One stage: seconds in all and of that whatever its rows, peak bytes, rows."""

    seconds: float
    setup_seconds: float
    memory: int
    rows: int


def probe(
    config: PlanConfig, small: Path, target: Path, *, progress: Progress | None = None
) -> dict[str, Measured]:
    """Measure the stages of a selection, and tuning the target on everything ("tune target").

    With the start of each: what passes before the rows are read, hashes of the weights included.
    small, target: token stores for the two models.

    Raises StaffError when a process ended before it was done: most likely, memory ran out.
    """
    with (progress or SilentProgress()).stage("probe", total=2, unit="processes") as stage:
        found = _apart(_probe_selection, config, small, target, time.monotonic())
        stage.advance()
        found |= _apart(_probe_tuning, config, target, time.monotonic())
        stage.advance()
    return found


def _apart(work: Callable[..., Result], *arguments: Any) -> Result:
    """The result of a call in a new process: its peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_quietly, work, *arguments).result()
        except BrokenProcessPool as error:
            raise StaffError(
                "the probe was killed, most likely because memory ran out: lower "
                "--micro-batch-size, --batch-tokens or --max-length"
            ) from error


def _quietly(work: Callable[..., Result], *arguments: Any) -> Result:
    with quiet():
        return work(*arguments)


def _started(since: float) -> Measured:
    """What has passed since the process was asked for: it has started, and looked at its models."""
    seconds = time.monotonic() - since
    return Measured(seconds, seconds, peak.read("cpu"), 0)


def _probe_selection(
    config: PlanConfig, small: Path, target: Path, since: float
) -> dict[str, Measured]:
    """In a process of its own: the stages of `staff select`, in their order."""
    look_at_models(config)
    found, adapter = {START: _started(since)}, config.adapter
    own, others = TokenStore.open(small), TokenStore.open(target)
    shape = read_shape(str(config.small), trust=trust_of(config))
    wanted = wanted_by(config)
    with tempfile.TemporaryDirectory(prefix="staff-") as scratch:
        if adapter is None and not config.skip_finetune:
            adapter = str(Path(scratch) / "adapter")
            rows = sample(own, config.finetune_on, seed=config.seed)
            found["tune small"] = _tune(config, "small", shape, rows, Path(adapter))
        scored = rows_to_score(own, config.score_on, seed=config.seed)
        limits = {"batch_tokens": config.batch_tokens, "shard_rows": config.shard_rows}
        work = scoring_work(own, scored, **limits)
        found["score small"], scores, weights = _score(  # and let go of the model, as a run does
            config,
            _scorer(config, "small", adapter, features=bool(wanted & {"features", "connect"})),
            shape,
            own,
            work,
        )
        if "unconditioned" in wanted:
            alone = _scorer(config, "small", adapter, alone=True)
            found["score alone"] = _score(
                config, alone, shape, own, scoring_work(own, None, **limits)
            )[0]
        weights *= len(own) / len(scored)  # the others' scores are spread like theirs
    if config.method == "staff":
        count = _verified(config, scores, weights, n=len(own))
        found["verify"] = _few(config, "target", others, count)
        if config.scores_untuned:
            found["score untuned"] = _few(config, "small", own, count)
    return found


def _few(config: PlanConfig, role: str, store: TokenStore, count: int) -> Measured:
    """Scoring `count` rows on a model as it is."""
    if not count:
        return Measured(0.0, 0.0, 0, 0)
    shape = read_shape(str(getattr(config, role)), trust=trust_of(config))
    work = scoring_work(
        store,
        spread(store.lengths, count),
        batch_tokens=config.batch_tokens,
        shard_rows=shard_rows_of(config, "verify", store),
    )
    return _score(config, _scorer(config, role, None), shape, store, work)[0]


def _scorer(
    config: PlanConfig,
    role: str,
    adapter: str | None,
    *,
    features: bool = False,
    alone: bool = False,
) -> LazyScorer:
    model, trust = str(getattr(config, role)), trust_of(config)
    return LazyScorer(
        config,
        model=model,
        adapter=adapter,
        quantize=config.quantized(role),
        features=features or config.features,
        start=start_token(load_tokenizer(model, trust=trust), model=model) if alone else None,
    )


def _probe_tuning(config: PlanConfig, target: Path, since: float) -> dict[str, Measured]:
    """In a process of its own: `staff finetune` of the target on all rows."""
    model, trust = str(config.target), trust_of(config)
    tokenisers_of((model,), max_length=config.max_length, trust=trust)
    model_facts(model=model, trust=trust)
    found = {START_TUNING: _started(since)}
    shape, rows = read_shape(model, trust=trust), TokenStore.open(target)
    with tempfile.TemporaryDirectory(prefix="staff-") as scratch:
        found["tune target"] = _tune(config, "target", shape, rows, Path(scratch) / "adapter")
    return found


def _tune(config: PlanConfig, role: str, shape: Shape, rows: Any, adapter: Path) -> Measured:
    start = time.monotonic()
    from staff.training.timing import time_steps

    device = str(choose_device(config.device))
    peak.reset(device)
    batch_size = min(config.batch_size, len(rows.lengths))
    work = tuning_work(rows, batch_size=batch_size, epochs=config.epochs, seed=config.seed)
    whole = work.take(np.flatnonzero(work.rows == batch_size))
    codes = device == "cpu" and device_used(config)["dtype"] != "float32"
    again = config.activation_checkpointing
    operations = flops.finetune(shape, whole, checkpointing=again)
    many = codes or operations.mean() <= CHEAP
    largest, chosen, groups = choose(operations, MANY_STEPS if many else STEPS)
    seconds = time_steps(
        str(getattr(config, role)),
        rows,
        [whole.places[batch] for batch in (largest, *chosen)],
        batch_size=batch_size,
        learning_rate=config.learning_rate,
        dtype=config.dtype,
        device=config.device,
        attention=config.attention,
        micro_batch_size=config.micro_batch_size,
        quantize=config.quantized(role),
        activation_checkpointing=again,
        trust=trust_of(config),
        adapter=adapter,
    )
    every = extrapolate(operations, chosen, groups, np.array(seconds[1:]))
    every *= flops.finetune(shape, work, checkpointing=again).sum() / operations.sum()
    memory = peak.read(device)
    release_memory()  # as a run does: the trainer's cycles would count in the next stage's peak
    # The largest was the first: what it took more than the largest that came later is no step's.
    usual = seconds[-1] * operations[largest] / operations[chosen[-1]]
    setup = time.monotonic() - start - sum(seconds) + max(0.0, seconds[0] - usual)
    return Measured(setup + every, setup, memory, len(rows.lengths))


def _score(
    config: PlanConfig, scorer: Any, shape: Shape, store: TokenStore, work: Work
) -> tuple[Measured, Floats, Floats]:
    """Beside what was measured: scores of the rows that were scored, and what each stands for."""
    start, device = time.monotonic(), str(choose_device(config.device))
    peak.reset(device)
    operations = flops.score(shape, work, phi=config.phi)
    largest, chosen, groups = choose(operations, BATCHES)

    def run(batch: int) -> tuple[float, dict[str, Any]]:
        start = time.monotonic()
        rows = work.places[batch]
        columns = scorer(collate(store.get(rows), rows=rows))
        return time.monotonic() - start, columns

    first, _ = run(largest)  # loads the model
    again, _ = run(largest)
    done = [run(batch) for batch in chosen]
    timed, every = np.array([seconds for seconds, _ in done]), [columns for _, columns in done]
    columns = {name: np.concatenate([found[name] for found in every]) for name in every[0]}
    _write(np.concatenate([work.places[batch] for batch in chosen]), columns, store)
    setup = time.monotonic() - start - again - timed.sum() - min(first, again)
    measured = Measured(
        seconds=setup + extrapolate(operations, chosen, groups, timed),
        setup_seconds=setup,
        memory=peak.read(device),
        rows=int(work.rows.sum()),
    )
    scores = columns[scorer.columns[0]]
    sizes = [len(work.places[batch]) for batch in chosen]
    standing = [work.rows[groups == group].sum() / size for group, size in enumerate(sizes)]
    return measured, scores, np.repeat(standing, sizes)


def _write(rows: Ints, columns: dict[str, Any], store: TokenStore) -> None:
    """Write scores as a run does."""
    with tempfile.TemporaryDirectory(prefix="staff-") as scratch:
        write_part(
            part_path(Path(scratch), 0),
            ids=[store.ids[row] for row in rows],
            rows=store.rows[rows],
            positions=rows,
            columns=columns,
            fingerprint=canonical({}),
        )


def choose(operations: Floats, count: int) -> tuple[int, tuple[int, ...], Ints]:
    """(the largest batch, the middle one of each of `count` groups, each batch's group [k])."""
    order = np.argsort(operations, kind="stable")
    parts = np.array_split(order, min(count, len(order)))
    groups = np.empty(len(order), np.int64)
    for number, part in enumerate(parts):
        groups[part] = number
    return int(order[-1]), tuple(int(part[len(part) // 2]) for part in parts), groups


def extrapolate(
    operations: Floats, chosen: tuple[int, ...], groups: Ints, seconds: Floats
) -> float:
    """Seconds of all batches: each group's operations at the speed of its chosen batch."""
    done = operations[np.array(chosen)]
    each = np.bincount(groups, weights=operations, minlength=len(chosen))
    return float((each * seconds / done).sum())


def spread(lengths: Any, count: int) -> Ints:
    """`count` rows whose lengths are spread as those of all [n]."""
    order = np.argsort(lengths, kind="stable")
    return order[np.linspace(0, len(order) - 1, count).round().astype(np.int64)]


def _verified(config: PlanConfig, scores: Floats, weights: Floats, *, n: int) -> int:
    """How many rows will be verified if all n score as those that were scored do.

    Those of the regions with more than b_v; none where there is no such region.
    """
    finite = np.isfinite(scores)
    if not finite.any():
        return 0
    # Each as often as it counts, in eighths of what counts least: whole rows would be too coarse.
    often = (8 * weights[finite] / weights[finite].min()).round().astype(np.int64)
    drawn = np.repeat(scores[finite], often)
    pool = stratify(
        drawn,
        regions=regions_for(config.regions, below_cut(n, config.cut)),
        cut=config.cut,
        by=config.stratify_by,
        keys=np.arange(len(drawn), dtype=np.uint64),
    )
    sizes = pool.sizes * n / len(drawn)
    most = config.verify_per_region
    if isinstance(most, str):  # in rounds: at most the cap
        return int(min(config.verify_cap, sizes[sizes > not_verified(most)].sum()))
    return int(np.where(sizes > most, most, 0).sum())
