"""Score parts on a Ray cluster: Ray Data hands them to actors that each hold the model.

Ray is an extra of the package (``staff-coreset[ray]``), imported when it is needed. A part is one
row of the Ray data set, so a batch that a worker lost is scored again as a whole, from the same
positions; results are put in their place by the part's number.
"""

import json
import logging
import os
import secrets
import signal
import socket
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa

from staff.data.store import TokenStore
from staff.errors import ConfigError, DataError, ModelError, RunError, StaffError
from staff.models.folder import first_line
from staff.progress import Stage
from staff.scores.run import PartScorer, Scoring
from staff.scores.shards import as_arrow, as_numpy
from staff.types import Ints

ADDRESS = "RAY_ADDRESS"  # where a cluster is that is to be joined; Ray's own variable
TRIES = 5  # at one part: Ray would go on for ever with one that kills every worker
INSTALL = "--executor ray needs Ray: pip install 'staff-coreset[ray]'"


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
    pad_id: int
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
            pad_id=self.pad_id,
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
    least = min(cpus, default=1)
    return size, {"num_cpus": max(1, min(least, least * len(cpus) // size))}


@contextmanager
def session() -> Iterator[None]:
    """A run that scores on Ray: a cluster that it joins or starts is left when it ends.

    Where $RAY_ADDRESS names one that is joined at once; else one is started on this machine when
    there is something to be scored. A connection of the caller's own is used and stays.

    Raises:
        ConfigError: Ray is not installed. StaffError: the cluster cannot be joined.
    """
    ray = imported()
    with ExitStack() as ending:
        _sessions.append(ending)
        ending.callback(_sessions.pop)
        if address_given() and not ray.is_initialized():
            connected(None)
        yield


_sessions: list[ExitStack] = []  # of the run in this process


def address_given() -> str | None:
    """Where a cluster is that is to be joined."""
    address = os.environ.get(ADDRESS, "")
    return None if address in ("", "local") else address


def connected(workers: int | None) -> Any:
    """The module `ray`, connected: to the caller's cluster, $RAY_ADDRESS, or a new one here."""
    ray = imported()
    if ray.is_initialized():
        return ray
    address = address_given()
    if address and "://" in address:
        raise ConfigError(
            f"{ADDRESS}={address}: Ray Client cannot be used; start staff on a machine of the "
            "cluster, e.g. with ray job submit"
        )
    options = {"address": address} if address else _of_this_machine(workers)
    if _level() > logging.INFO:
        _silence(ray, _sessions[-1])
    _sessions[-1].callback(ray.shutdown)  # of a start that is broken off, too
    try:
        if address:
            _knock(address)
        with _sigterm_kept(), _native_kept_quiet():
            ray.init(log_to_driver=False, logging_level=_level(), **options)
    except Exception as error:  # Ray's own are many
        what = f"cannot join a Ray cluster at {ADDRESS}={address}" if address else (
            "cannot start Ray here"
        )  # fmt: skip
        why = getattr(error, "strerror", None) or first_line(error)
        raise StaffError(f"{what}: {why}") from error
    return ray


def _silence(ray: Any, ending: ExitStack) -> None:
    """Let Ray print nothing until the end: what matters to a user is told by `Told`."""
    log = logging.getLogger("ray.data")
    ending.callback(log.setLevel, log.level)
    log.setLevel(logging.CRITICAL)
    # Else a thread of its prints to standard output that a worker died, with or without logs.
    ending.callback(setattr, ray._private.worker, "_worker_logs_enabled", True)
    ray._private.worker._worker_logs_enabled = False


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at HOST:PORT: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=20).close()


def _of_this_machine(workers: int | None) -> dict[str, Any]:
    """Options of a cluster that serves one run: nothing of it is sent anywhere or left behind."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray lets nobody without a token use its ports; one from here it need not keep in ~/.ray.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Sockets lie in it, whose paths may not be long: not in $TMPDIR.
    place = tempfile.TemporaryDirectory(
        prefix="staff-ray-", dir=os.environ.get("RAY_TMPDIR", "/tmp"), ignore_cleanup_errors=True
    )
    import torch

    return {
        "address": "local",
        "include_dashboard": False,
        "num_cpus": max(workers or torch.cuda.device_count(), torch.get_num_threads()),
        "_temp_dir": _sessions[-1].enter_context(place),
    }


def check_installed() -> None:
    """Raise `ConfigError` if there is no Ray to import."""
    if find_spec("ray") is None:
        raise ConfigError(INSTALL)


def imported() -> Any:
    """The module `ray`, with its `data`."""
    if _level() > logging.INFO:  # what its native code says; it reads this once
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError(f"{INSTALL} ({error})") from error
    return ray


def _level() -> int:
    """What Ray may log here: errors, or all where the user wants to hear of the libraries."""
    talks = logging.getLogger().isEnabledFor(logging.INFO)
    return logging.INFO if talks else logging.ERROR


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Ray puts a handler of its own, which exits, in the place of the program's."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as stop:
        if stop.code == signal.SIGTERM and callable(handler):
            handler(signal.SIGTERM, None)
        raise
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _native_kept_quiet() -> Iterator[None]:
    """While it connects, Ray's native code writes to standard error whatever its level is."""
    with ExitStack() as ending:
        if _level() > logging.INFO:
            with suppress(OSError):  # there is none
                kept = os.dup(2)
                ending.callback(os.close, kept)
                ending.callback(os.dup2, kept, 2)
                with Path(os.devnull).open("wb") as nowhere:
                    os.dup2(nowhere.fileno(), 2)
        yield


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
