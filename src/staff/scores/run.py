"""Stream a data set through a scorer: resumable, and robust to batches too large for memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from staff.data.batches import Batch, collate, token_budget_batches
from staff.data.store import TokenStore
from staff.errors import ModelError
from staff.models.memory import Halving
from staff.progress import Progress, SilentProgress, Stage
from staff.scores.shards import (
    ShardCache,
    canonical,
    make_table,
    part_key,
    part_path,
    read_part,
    score_columns,
    write_part,
)
from staff.types import Ints, ScoreTable
from staff.visible import one_line, shortened
from staff.words import counted

Scoring = Callable[[Batch], Mapping[str, Any]]
# Number of a part -> positions in it, scored by other processes: (number, columns) as they come.
Elsewhere = Callable[[Mapping[int, Ints], Stage], Iterator[tuple[int, dict[str, Any]]]]
FEW, FEW_TOKENS = 64, 8192  # rows and tokens of a shard where few rows are scored
NOT_FINITE = 0.01  # share of the rows; more say something of the model, not of the rows


@dataclass(frozen=True, slots=True)
class ScoreRun:
    """A table over all rows of the store.

    rows: scored this time. reused: rows whose scores were there already.
    """

    table: ScoreTable
    rows: int
    reused: int


def score_rows(
    scorer: Scoring,
    store: TokenStore,
    positions: Ints | Sequence[int] | None = None,
    *,
    batch_tokens: int,
    out: Path,
    fingerprint: Mapping[str, Any],
    shard_rows: int = 2048,
    cache: ShardCache | None = None,
    earlier: Sequence[Ints] = (),
    more: bool = False,
    share: tuple[int, int] = (0, 1),
    elsewhere: Elsewhere | None = None,
    name: str = "score",
    progress: Progress | None = None,
) -> ScoreRun:
    """Score the samples at `positions` of the store (all of them by default) and no others.

    scorer: Batch -> columns float64 [B] (`staff.scores.effort.Scorer`, or a function).
    batch_tokens: padded tokens a batch; halved, for the rest of the call, when memory runs out.
    out: folder of the Parquet parts, `shard_rows` rows each. Parts with the same
        fingerprint and rows are read instead of scored; all others there are replaced.
    fingerprint: everything the scores depend on (hashes of model and data, phi, dtype, seed, …).
    cache: parts that are not in `out` may be there, and new ones are put there.
    earlier: positions of the calls before this one, where the rows come in rounds: their parts
    come first, and their rows are in the table, too. more: whether another round may follow:
    then parts beyond these stay, since they may be its own from an earlier start, until
    `forget_others` is called.
    share: (r, k): of the parts only r, r + k, r + 2k, …; the others' rows are not known.
    elsewhere: scores the parts instead of this process, each as `PartScorer` does.

    A row with a value that is not finite has NaN in every column (and zeros for features).

    Raises StaffError when one sample alone is too large for memory, ModelError when more than
    `NOT_FINITE` of the rows (one is always allowed), or all, have no finite score.
    """
    last = np.arange(len(store)) if positions is None else positions
    plan = plan_parts([*earlier, last], shard_rows)
    made_from = canonical({"columns": list(getattr(scorer, "columns", ())), **fingerprint})
    if not more:
        forget_others(out, plan)
    total = sum(map(len, plan.values()))
    plan = {k: part for k, part in plan.items() if k % share[1] == share[0]}
    wanted = np.concatenate([np.empty(0, np.int64), *plan.values()])
    columns: dict[str, Any] = {}
    missing: dict[int, Ints] = {}
    rows = cached = reused = unkept = 0
    here = PartScorer(scorer, store, batch_tokens=batch_tokens, rows=total)

    def keep(part: Ints, found: Mapping[str, Any]) -> None:
        for column, values in found.items():
            if values.ndim == 1:
                columns.setdefault(column, np.full(len(store), np.nan))[part] = values

    with (progress or SilentProgress()).stage(name, total=len(wanted), unit="rows") as stage:
        for number, part in plan.items():
            path = part_path(out, number)
            stored, fault = read_part(path, fingerprint=made_from, positions=part)
            if fault:
                stage.note(f"{path.name} {fault}: its rows are scored again")
            key = part_key(made_from, part)
            if stored is None and cache is not None and cache.fetch_shard(key, path):
                stored, _ = read_part(path, fingerprint=made_from, positions=part)
                cached += stored is not None
            if stored is None:
                missing[number] = part
                continue
            found = {n: stored[n].to_numpy() for n in score_columns(stored)}
            here.note_not_finite(part, found)
            reused += len(part)
            keep(part, found)
        if reused:
            stage.skip(reused)
        for number, found in (elsewhere or here.score_all)(missing, stage):
            part, path = missing[number], part_path(out, number)
            here.note_not_finite(part, found)
            write_part(
                path,
                ids=[store.ids[i] for i in part],
                rows=store.rows[part],
                positions=part,
                columns=found,
                fingerprint=made_from,
            )
            if cache is not None:
                unkept += not cache.keep_shard(part_key(made_from, part), path)
            rows += len(part)
            store.release()
            keep(part, found)
        if cached:
            stage.note(f"{cached} of {len(plan)} shards came from the cache")
        if unkept:
            stage.note(f"no permission to write to the cache: it lacks {counted(unkept, 'shard')}")
    known = np.zeros(len(store), dtype=bool)
    known[wanted] = True
    table = make_table(ids=store.ids, columns=columns, known=known)
    return ScoreRun(table, rows, reused=len(wanted) - rows)


class PartScorer:
    """Scores groups of rows; remembers the batch size that memory has allowed.

    rows: that are to be scored in all, here or elsewhere.
    """

    def __init__(self, scorer: Scoring, store: TokenStore, *, batch_tokens: int, rows: int) -> None:
        self.scorer, self.store, self.rows = scorer, store, rows
        self.apart = getattr(scorer, "apart", None)
        self.not_finite: set[int] = set()  # positions whose scores are not finite
        self.batches = Halving(batch_tokens, note=lambda text: None)

    def score_all(
        self, parts: Mapping[int, Ints], stage: Stage
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number and columns of each part, in their order."""
        for number, positions in parts.items():
            yield number, self.score(positions, stage)

    def score(self, positions: Ints, stage: Stage) -> dict[str, Any]:
        """Columns [m] of the rows at `positions`, in their order."""
        lengths = self.store.lengths[positions]
        self.batches.note = stage.note
        columns: dict[str, Any] = {}
        done = self.batches.run(
            token_budget_batches(lengths, batch_tokens=self.batches.limit, apart=self.apart),
            lengths,
            lambda places: self._score(positions[places]),
            describe=lambda place: self._named(int(positions[place])),
        )
        for places, found in done:
            found = self._with_nan(found, positions[places])
            for name, values in found.items():
                shape = (len(positions), *values.shape[1:])
                columns.setdefault(name, np.empty(shape, values.dtype))[places] = values
            stage.advance(len(places))
        return columns

    def _score(self, positions: Ints) -> Mapping[str, Any]:
        batch = collate(self.store.get(positions), rows=positions)
        return self.scorer(batch)

    def _named(self, position: int) -> str:
        store = self.store
        row, tokens = int(store.rows[position]), int(store.lengths[position])
        name = shortened(one_line(store.ids[position]))
        return f"row {row} (id {name}, {tokens} tokens)"

    def _with_nan(self, found: Mapping[str, Any], positions: Ints) -> dict[str, Any]:
        """The columns [m], NaN in all of them where one is not finite."""
        columns = {name: np.asarray(values) for name, values in found.items()}
        bad = np.zeros(len(positions), np.bool_)
        for values in columns.values():
            bad |= ~np.isfinite(values).reshape(len(positions), -1).all(axis=1)
        if not bad.any():
            return columns
        columns = {
            name: np.where(bad, np.nan, values)
            if values.ndim == 1
            else np.where(bad[:, None], values.dtype.type(0), values)
            for name, values in columns.items()
        }
        self.note_not_finite(positions, columns)
        return columns

    def note_not_finite(self, positions: Ints, columns: Mapping[str, Any]) -> None:
        """Count rows without a finite score in columns [m]; ModelError once they are too many."""
        bad = np.any([np.isnan(v) for v in columns.values() if v.ndim == 1], axis=0)
        self.not_finite |= set(positions[bad].tolist())
        many = len(self.not_finite)
        if many <= max(1, int(NOT_FINITE * self.rows)) and many < self.rows:
            return
        first = ", ".join(self._named(position) for position in sorted(self.not_finite)[:3])
        first += ", …" * (many > 3)
        raise ModelError(
            f"the scores of {many} of {self.rows} rows are not finite: {first}. Likely "
            "causes: an overflow (try --dtype float32), a model or adapter with damaged weights, "
            "or a fine-tuning that went wrong (lower its --learning-rate)"
        )


def few_rows_shard(lengths: Ints, *, shard_rows: int) -> int:
    """Rows of a shard where few rows are scored, each at a high cost (verification).

    About `FEW_TOKENS` in rows of the mean length, and `FEW` rows at least, so that several
    processes have something to do and little is lost with one; never more than `shard_rows`.
    Whatever the size of a batch is: with another one finished shards are to serve, too.

    lengths: tokens of all rows of the store, int64 [n].
    """
    return min(shard_rows, max(FEW, int(FEW_TOKENS / lengths.mean())))


def plan_parts(rounds: Sequence[Ints | Sequence[int]], shard_rows: int) -> dict[int, Ints]:
    """Number of a part -> the positions in it, ascending; every round begins a part."""
    parts = []
    for positions in rounds:
        rows = np.unique(np.asarray(positions, np.int64))
        parts += [rows[start : start + shard_rows] for start in range(0, len(rows), shard_rows)]
    return dict(enumerate(parts))


def forget_others(out: Path, plan: Mapping[int, Ints]) -> None:
    """Remove parts that are not of this plan: a reader takes all that lie there."""
    keep = {part_path(out, number) for number in plan}
    for path in out.glob("part-*.parquet"):
        if path not in keep:
            path.unlink(missing_ok=True)  # another process of a team may have been quicker
