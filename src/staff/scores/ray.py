"""Score parts on a Ray cluster: Ray Data hands them to actors that each hold the model.

A part is one row of the Ray data set, so a batch that a worker lost is scored again as a whole,
from the same positions; results are put in their place by the part's number. The cluster itself
is the matter of `staff.scores.ray_cluster`.
"""

import json
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from staff.data.store import TokenStore
from staff.errors import ConfigError, DataError, ModelError, RunError, StaffError
from staff.models.folder import first_line
from staff.progress import Stage
from staff.scores.ray_cluster import connected
from staff.scores.run import PartScorer, Scoring
from staff.scores.shards import as_arrow, as_numpy
from staff.types import Ints

TRIES = 5  # at one part: Ray would go on for ever with one that kills every worker


@dataclass(frozen=True, slots=True)
class Job:
    """What every worker is told.

    scorer: its model is loaded where the first batch is scored.
    tokens, data_hash: the store's file, by a path that leads workers to it, and its SHA-256.
    rows: that are to be scored in all.
    check: raises StaffError on a machine that would give other scores.
    """

    scorer: Scoring
    tokens: Path
    data_hash: str
    batch_tokens: int
    rows: int
    check: Callable[[], None]
    tries: int = TRIES

    def open(self) -> PartScorer:
        """On a worker: what scores its parts."""
        if not self.tokens.is_file():
            raise StaffError(
                f"{self.tokens} does not exist here: the run folder must be on a file system that "
                "all machines of the cluster share, at the same path"
            )
        self.check()
        store = TokenStore.open(self.tokens)
        if store.content_hash != self.data_hash:
            raise StaffError(
                f"{self.tokens} is not the same file here as where the run was started"
            )
        return PartScorer(
            self.scorer,
            store,
            batch_tokens=self.batch_tokens,
            rows=self.rows,
        )


class Worker:
    """An actor: scores one part a call, on a model that stays loaded. begun: see `counter`."""

    def __init__(self, job: Job, begun: Any) -> None:
        import ray

        self._job, self._begun, self._get = job, begun, ray.get
        self._node = ray.get_runtime_context().get_node_id()
        self._scorer: PartScorer | None = None

    def __call__(self, batch: Any) -> Any:
        """One row of ``part``, ``positions`` -> one of ``part``, ``scores``, ``told`` (JSON)."""
        notes = Notes()
        tries = self._get(self._begun.begin.remote(batch["part"][0].as_py()))
        told: dict[str, Any] = {"node": self._node, "tries": tries, "notes": notes.lines}
        scores = None
        try:
            if tries > self._job.tries:
                raise StaffError(
                    f"{self._job.tries} workers died at the same shard, most likely because memory "
                    "ran out: lower --batch-tokens or --workers, and run the same command again; "
                    "finished shards are kept"
                )
            if self._scorer is None:
                self._scorer = self._job.open()
            positions = batch["positions"].combine_chunks().flatten().to_numpy()
            scores = packed(self._scorer.score(positions, notes))
        except StaffError as error:
            told |= {"fault": str(error), "kind": type(error).__name__}
        except Exception as error:  # Ray would wrap it, and log it on every machine
            told |= {"fault": f"{type(error).__name__}: {first_line(error)}"}
            told |= {"kind": None, "trace": traceback.format_exc()}
        return pa.table(
            {
                "part": batch["part"],
                "scores": pa.array([scores], pa.large_binary()),
                "told": pa.array([json.dumps(told)]),
            }
        )


def counter(ray: Any) -> Any:
    """An actor that counts how often each part was begun; it outlives the workers."""

    class Begun:
        def __init__(self) -> None:
            self._times: dict[int, int] = {}

        def begin(self, number: int) -> int:
            self._times[number] = self._times.get(number, 0) + 1
            return self._times[number]

    # A class of this function is sent as it is: its process need not import all of this.
    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Begun).remote()


class Notes:
    """A `Stage` on a worker: what is noted is told where the run was started."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def advance(self, amount: int = 1) -> None:
        """Say nothing: a part that is lost would count twice."""

    def skip(self, amount: int) -> None:
        """Say nothing: an earlier start's rows are not sent to a worker."""

    def note(self, text: str) -> None:
        """Keep a line."""
        self.lines.append(text)


def packed(columns: Mapping[str, Any]) -> bytes:
    """Columns [m] or [m, D] as an Arrow stream, to the last bit."""
    table = pa.table({name: as_arrow(values) for name, values in columns.items()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def unpacked(scores: bytes) -> dict[str, Any]:
    """What `packed` was given."""
    with pa.ipc.open_stream(scores) as reader:
        table = reader.read_all()
    return {name: as_numpy(table[name]) for name in table.column_names}


def score_parts(
    job: Job,
    parts: Mapping[int, Ints],
    stage: Stage,
    *,
    workers: int | None,
    device: str,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each part and its columns, as they are finished.

    workers: how many actors; None: one a GPU, or one a machine where none is to be used.
    device: the setting.

    Raises:
        StaffError: what one raised on a worker; or Ray gave up.
    """
    if not parts:
        return
    ray = connected(workers)
    size, room = share_of(ray.nodes(), workers=workers, device=device)
    _say_if_busy(ray, room, stage)
    tables = [
        pa.table({"part": [number], "positions": pa.array([positions], pa.list_(pa.int64()))})
        for number, positions in parts.items()
    ]
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    told, left = Told(stage, here=ray.get_runtime_context().get_node_id()), dict(parts)
    with ray.data.DataContext.current(context), _told_plainly(ray):
        scored = ray.data.from_arrow(tables).map_batches(
            Worker,
            fn_constructor_args=(job, counter(ray)),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                size=min(size, len(parts)), max_tasks_in_flight_per_actor=1
            ),
            **room,
        )
        for block in scored.iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=0
        ):
            for row in block.to_pylist():
                told.hear(json.loads(row["told"]))
                number = row["part"]
                stage.advance(len(left.pop(number)))
                yield number, unpacked(row["scores"])
    if left:
        raise StaffError(f"Ray lost {len(left)} of {len(parts)} shards: run the same command again")


def share_of(
    nodes: list[dict[str, Any]], *, workers: int | None, device: str
) -> tuple[int, dict[str, int]]:
    """How many actors on these machines (`ray.nodes()`), and what each takes of them.

    >>> machine = {"Alive": True, "Resources": {"CPU": 8.0}}
    >>> share_of([machine] * 2, workers=None, device="auto")
    (2, {'num_cpus': 8})
    >>> share_of([machine] * 2, workers=4, device="auto")
    (4, {'num_cpus': 4})
    >>> share_of([machine] * 2, workers=3, device="auto")  # not 5: no machine has twice as many
    (3, {'num_cpus': 4})
    >>> machine["Resources"]["GPU"] = 4.0
    >>> share_of([machine] * 2, workers=None, device="auto")
    (8, {'num_cpus': 1, 'num_gpus': 1})
    """
    have = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = int(sum(resources.get("GPU", 0) for resources in have))
    if device.startswith("cuda") or (device == "auto" and gpus):
        return workers or max(1, gpus), {"num_cpus": 1, "num_gpus": 1}
    cpus = [int(resources["CPU"]) for resources in have if resources.get("CPU", 0) >= 1]
    size = workers or max(1, len(cpus))
    most = min(cpus, default=1)
    fits = (share for share in range(most, 1, -1) if sum(cpu // share for cpu in cpus) >= size)
    return size, {"num_cpus": next(fits, 1)}


@contextmanager
def _told_plainly(ray: Any) -> Iterator[None]:
    """What Ray itself fails of, as a `StaffError`."""
    try:
        yield
    except ray.exceptions.RayError as error:  # its last line is what happened on a worker
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise StaffError(
            f"Ray gave up: {lines[-1] if lines else type(error).__name__}. Run the same command "
            "again: finished shards are kept"
        ) from error


def _say_if_busy(ray: Any, room: Mapping[str, int], stage: Stage) -> None:
    """Note why nothing may happen for a while."""
    kind = "GPU" if "num_gpus" in room else "CPU"
    free = ray.available_resources().get(kind, 0)
    if free < 1:
        stage.note(f"the cluster has no free {kind} now: waiting")


class Told:
    """What workers tell beside scores. here: the machine that the run was started on."""

    def __init__(self, stage: Stage, *, here: str) -> None:
        self._stage, self._here = stage, here

    def hear(self, told: Mapping[str, Any]) -> None:
        """Note what a worker notes; raise what it failed of."""
        where = "" if told["node"] == self._here else f"node {told['node'][:8]}: "
        if told["tries"] > 1:
            self._stage.note(f"{where}a worker died, and its shard was scored again")
        for line in told["notes"]:
            self._stage.note(f"{where}{line}")
        if "fault" not in told:
            return
        if told["kind"] is None:
            error = RuntimeError(f"{where}{told['fault']}")
            error.add_note(told["trace"])
            raise error
        raise KINDS.get(told["kind"], StaffError)(f"{where}{told['fault']}")


KINDS = {kind.__name__: kind for kind in (ConfigError, DataError, ModelError, RunError)}
