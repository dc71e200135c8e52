"""Stream a data set through a scorer: resumable, and undeterred by a batch too large for memory."""

import gc
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from staff.data.batches import Batch, collate, token_budget_batches
from staff.data.store import TokenStore
from staff.errors import ModelError, StaffError
from staff.progress import Progress, SilentProgress, Stage
from staff.scores.shards import (
    canonical,
    make_table,
    part_path,
    read_part,
    score_columns,
    write_part,
)
from staff.types import Ints, ScoreTable

Scoring = Callable[[Batch], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class ScoreRun:
    """A table over all rows of the store, and what it cost.

    rows, tokens: scored this time. reused: rows whose scores were there already.
    """

    table: ScoreTable
    rows: int
    tokens: int
    reused: int
    seconds: float


def score_rows(
    scorer: Scoring,
    store: TokenStore,
    positions: Ints | Sequence[int] | None = None,
    *,
    batch_tokens: int,
    pad_id: int,
    out: Path,
    fingerprint: Mapping[str, Any],
    shard_rows: int = 8192,
    name: str = "score",
    progress: Progress | None = None,
) -> ScoreRun:
    """Score the samples at `positions` of the store (all of them by default) and no others.

    scorer: Batch -> columns float64 [B] (`staff.scores.effort.Scorer`, or a function).
    batch_tokens: padded tokens a batch; halved, for the rest of the call, when memory runs out.
    out: folder of the Parquet parts, `shard_rows` positions of the store each. Parts with the same
        fingerprint and rows are read instead of scored; all others there are replaced.
    fingerprint: everything the scores depend on (hashes of model and data, phi, dtype, seed, …).

    Raises StaffError when one sample alone is too large for memory, ModelError when a score is
    not finite.
    """
    start = time.monotonic()
    wanted = np.arange(len(store)) if positions is None else np.unique(np.asarray(positions, int))
    made_from = canonical({"columns": list(getattr(scorer, "columns", ())), **fingerprint})
    plan = {int(k): wanted[wanted // shard_rows == k] for k in np.unique(wanted // shard_rows)}
    _forget_others(out, plan)
    columns: dict[str, Any] = {}
    rows = tokens = 0
    worker = _Worker(scorer, store, batch_tokens=batch_tokens, pad_id=pad_id)
    with (progress or SilentProgress()).stage(name, total=len(wanted), unit="rows") as stage:
        for number, part in plan.items():
            path = part_path(out, number)
            stored = read_part(path, fingerprint=made_from, positions=part)
            if stored is not None:
                found = {n: stored[n].to_numpy() for n in score_columns(stored)}
                stage.advance(len(part))
            else:
                found = worker.score(part, stage)
                write_part(
                    path,
                    ids=[store.ids[i] for i in part],
                    rows=store.rows[part],
                    positions=part,
                    columns=found,
                    fingerprint=made_from,
                )
                rows += len(part)
                tokens += int(store.lengths[part].sum())
            for column, values in found.items():
                if values.ndim == 1:
                    whole = columns.setdefault(column, np.full(len(store), np.nan))
                    whole[part] = values
    known = np.zeros(len(store), dtype=bool)
    known[wanted] = True
    table = make_table(ids=store.ids, columns=columns, known=known, fingerprint=fingerprint)
    seconds = time.monotonic() - start
    return ScoreRun(table, rows, tokens, reused=len(wanted) - rows, seconds=seconds)


class _Worker:
    """Scores groups of rows; remembers the batch size that memory has allowed."""

    def __init__(
        self, scorer: Scoring, store: TokenStore, *, batch_tokens: int, pad_id: int
    ) -> None:
        self.scorer, self.store, self.pad_id = scorer, store, pad_id
        self.limit = batch_tokens

    def score(self, positions: Ints, stage: Stage) -> dict[str, Any]:
        """Columns [m] of the rows at `positions`, in their order."""
        lengths = self.store.lengths[positions]
        queue = deque(token_budget_batches(lengths, batch_tokens=self.limit))
        columns: dict[str, Any] = {}
        while queue:
            places = queue.popleft()
            size = len(places) * int(lengths[places].max())
            if size > self.limit and len(places) > 1:
                queue.extendleft(reversed(np.array_split(places, 2)))
                continue
            found = self._try(positions[places])
            if found is None:
                self._too_large(positions[places], size, stage)
                queue.appendleft(places)
                continue
            self._check(found, positions[places])
            for name, values in found.items():
                values = np.asarray(values)
                shape = (len(positions), *values.shape[1:])
                columns.setdefault(name, np.empty(shape, values.dtype))[places] = values
            stage.advance(len(places))
        return columns

    def _try(self, positions: Ints) -> Mapping[str, Any] | None:
        """Scores of one batch, or None when memory ran out."""
        batch = collate(self.store.get(positions), pad_id=self.pad_id, rows=positions)
        try:
            return self.scorer(batch)
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
            if not is_out_of_memory(error):
                raise
        return None  # outside `except`, so that the failed batch's tensors are let go

    def _too_large(self, positions: Ints, size: int, stage: Stage) -> None:
        gc.collect()
        _empty_cache()
        if len(positions) == 1:
            row = int(positions[0])
            raise StaffError(
                f"out of memory on row {int(self.store.rows[row])} (id {self.store.ids[row]}, "
                f"{int(self.store.lengths[row])} tokens) alone; lower --max-length, or use "
                "another --device or --dtype"
            )
        self.limit = size // 2
        stage.note(f"out of memory: going on with batches of {self.limit} tokens")

    def _check(self, found: Mapping[str, Any], positions: Ints) -> None:
        for name, values in found.items():
            bad = ~np.isfinite(np.asarray(values)).reshape(len(positions), -1).all(axis=1)
            if bad.any():
                row = int(positions[int(bad.argmax())])
                raise ModelError(
                    f"{name} of row {int(self.store.rows[row])} (id {self.store.ids[row]}) is not "
                    "a finite number; try --dtype float32, and check the model's weights"
                )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a device or the host ran out of memory."""
    import torch

    text = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "out of memory" in text.lower()
        or "DefaultCPUAllocator" in text
    )


def _empty_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _forget_others(out: Path, plan: Mapping[int, Ints]) -> None:
    """Remove parts that are not of this plan: a reader takes all that lie there."""
    keep = {part_path(out, number) for number in plan}
    for path in out.glob("part-*.parquet"):
        if path not in keep:
            path.unlink()
