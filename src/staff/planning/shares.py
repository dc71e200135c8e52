"""The part of a stage that each of several processes does, and what it computes at once."""

import heapq

import numpy as np

from staff.planning.work import Work, work_of
from staff.runs.plan_config import PlanConfig
from staff.scores.run import few_rows_shard
from staff.training.parts import dealt, micro_batches
from staff.training.tokens import Tokens
from staff.types import Floats, Ints

FEW = ("verify", "score untuned")  # stages that score few rows


def scorers(config: PlanConfig) -> int:
    """How many processes score; one of Ray's workers where their number is not given."""
    if config.probe:
        return 1
    return config.workers or 1 if config.executor == "ray" else config.processes


def scoring_share(config: PlanConfig, work: Work, operations: Floats, *, shard_rows: int) -> float:
    """Part of a scoring pass, operations [k] of its batches, that the busiest process does."""
    if scorers(config) == 1:
        return 1.0
    numbers = shards(work, shard_rows=shard_rows)
    of_shard = np.bincount(numbers, weights=operations).astype(np.float64)
    return largest_share(of_shard, scorers(config), queue=config.executor == "ray")


def shard_rows_of(config: PlanConfig, kind: str, tokens: Tokens) -> int:
    """Rows of a shard of this kind of stage; tokens: of all rows, as the stage's model has them."""
    if kind not in FEW:
        return config.shard_rows
    return few_rows_shard(tokens.lengths, shard_rows=config.shard_rows)


def shares(work: Work, tokens: Tokens, processes: int) -> list[Work]:
    """What each of several processes does of the steps (`staff.training.share.Share`).

    A step's rows are dealt out one by one, the longest first, so none does more than the first.
    Processes without a row are left out.
    """
    each = (
        [dealt(rows, rank=k, size=processes) for rows in work.places if len(rows) > k]
        for k in range(processes)
    )
    return [work_of(places, tokens, multiple=work.multiple) for places in each if places]


def micro_work(work: Work, tokens: Tokens, size: int | None) -> Work:
    """The parts of at most `size` rows that steps are computed in (`training.parts`)."""
    parts = (micro_batches(rows, size=size, most=len(rows)) for rows in work.places)
    every = [part for step in parts for part in step]
    return work_of(every, tokens, multiple=work.multiple)


def shards(work: Work, *, shard_rows: int) -> Ints:
    """Of each batch [k] of a scoring pass, the number of the shard that it is of."""
    rows = np.sort(np.concatenate(work.places))
    first = np.array([batch[0] for batch in work.places], np.int64)
    return np.searchsorted(rows, first) // shard_rows


def largest_share(amounts: Floats, processes: int, *, queue: bool) -> float:
    """Part of the work in shards, amounts [s], that the process with the most of it does.

    queue: each takes the next shard when it is done with one, as Ray's workers do; else every
    k-th shard is its own, as under torchrun.

    >>> largest_share(np.array([1.0, 1, 1, 1]), 3, queue=False)
    0.5
    >>> largest_share(np.array([5.0, 1, 1, 1, 1, 1]), 2, queue=True)
    0.5
    """
    if queue:
        busy = [0.0] * processes
        for amount in amounts.tolist():
            heapq.heapreplace(busy, busy[0] + amount)
    else:
        busy = [float(amounts[k::processes].sum()) for k in range(min(processes, len(amounts)))]
    return float(max(busy) / amounts.sum())
