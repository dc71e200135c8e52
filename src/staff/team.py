"""Several processes in one run, as torchrun starts them: rank 0 leads, the others help it score.

They share the run folder: a shard is handed over by its file. Messages between processes are JSON
over gloo; nothing is unpickled.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

from staff.errors import (
    ConfigError,
    ProcessGoneError,
    StaffError,
    ToldElsewhereError,
    error_of,
)
from staff.heartbeat import Heartbeat
from staff.training.alone import alone

PATIENCE = timedelta(days=30)  # of those who wait while rank 0 fine-tunes; torchrun ends them

if TYPE_CHECKING:
    from torch import Tensor

    from staff.training.share import Share

Order = Mapping[str, Any]
Work = Callable[[Order], int]


@dataclass(slots=True)
class Team:
    """The processes of one run.

    listen: on rank 0, whether the others wait for an order.
    """

    rank: int
    size: int
    listen: bool = field(default=True, init=False)

    def lead(self, order: Order, work: Work) -> int:
        """On rank 0: have every process do an order; the sum of what they return.

        An order with ``together`` is one in which they wait for each other.

        Raises:
            StaffError: what the first one raised that failed.
        """
        self.listen = False  # nor where one is gone, and what is said has reached some of them
        self._say(order, by=0)
        amount = self._do(order, work)
        self.listen = True
        return amount

    def follow(self, work: Work) -> None:
        """On the others: do what rank 0 orders, until it is done.

        Raises:
            ToldElsewhereError: rank 0 has failed.
        """
        while order := self._say(None, by=0):
            if order.get("fault"):
                raise ToldElsewhereError(f"rank 0: {order['fault']}")
            self._do(order, work)

    def dismiss(self, fault: StaffError | None = None) -> None:
        """On rank 0: the others may go, since all is done or something failed here.

        Nothing is said where they do not listen, but wait for this process, say, to train on: what
        would be said reaches nobody, and would never end. They see that it leaves.
        """
        if self.listen:
            self._say({"fault": str(fault)} if fault else {}, by=0)

    def share(self) -> "Share":
        """Of a fine-tuning that all processes do together."""
        import torch.distributed as dist

        from staff.training.share import Share

        def add(tensor: "Tensor") -> None:
            with peers():
                dist.all_reduce(tensor)

        return Share(self.rank, self.size, add)

    def _do(self, order: Order, work: Work) -> int:
        fault, amount = None, 0
        try:
            amount = work(order)
        except StaffError as error:
            if order.get("together"):
                raise  # the others wait for this one elsewhere; they end when it has ended
            fault = error
        mine = {
            "fault": fault and str(fault),
            "exit_code": fault and fault.exit_code,
            "amount": amount,
        }
        said = [self._say(mine, by=rank) for rank in range(self.size)]
        if fault:
            raise fault
        for rank, theirs in enumerate(said):
            if theirs["fault"]:
                kind = ToldElsewhereError if self.rank else error_of(theirs["exit_code"])
                raise kind(f"rank {rank}: {theirs['fault']}")
        return sum(theirs["amount"] for theirs in said)

    def _say(self, words: Any, *, by: int) -> Any:
        """What the rank `by` says, on every rank."""
        import torch
        import torch.distributed as dist

        text = json.dumps(words).encode() if self.rank == by else b""
        with peers():
            length = torch.tensor([len(text)])
            dist.broadcast(length, src=by)
            buffer = torch.zeros(int(length), dtype=torch.uint8)
            if self.rank == by:
                buffer = torch.frombuffer(bytearray(text), dtype=torch.uint8)
            dist.broadcast(buffer, src=by)
        return json.loads(buffer.numpy().tobytes())


_here: list[Team] = []
_meetings = count()  # of these processes


@contextmanager
def peers() -> Iterator[None]:
    """Talk to the other processes; ProcessGoneError where one is not there any more."""
    try:
        yield
    except RuntimeError as error:  # gloo: the connection was closed by the peer
        raise ProcessGoneError(
            "another process of this run has ended: run the same command again; finished "
            "stages and shards are kept"
        ) from error


def in_team() -> bool:
    """Whether torchrun started this process as one of several."""
    return _number_in_environment("WORLD_SIZE", 1) > 1


def gathers() -> bool:
    """Whether a run here is to be done by all of them: not in a program that has its own group."""
    dist = sys.modules.get("torch.distributed")
    return in_team() and not (dist and dist.is_available() and dist.is_initialized())


def helps() -> bool:
    """Whether this process was started to help another one."""
    return gathers() and _number_in_environment("RANK", 0) > 0


def _number_in_environment(name: str, default: int) -> int:
    """A number in the environment; `default` where there is none."""
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else default


def current() -> Team | None:
    """The team this process leads or helps; None where it works alone."""
    return _here[-1] if _here else None


@contextmanager
def gathered(follow: Callable[[Team], None]) -> Iterator[bool]:
    """Meet the processes that torchrun started with this one; whether this one is to do the run.

    It is rank 0 that is, or a process that is alone. The others `follow` until it is done.
    Libraries are not told of the team: they would take every model for one that all train.
    """
    if not in_team():
        yield True
        return
    import torch.distributed as dist

    if dist.is_initialized():  # the caller's own, who has called us in one process, we hope
        yield True
        return
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=PATIENCE))
        # What was left there when they met before, in the same program, is out of date.
        store = dist.PrefixStore(f"staff {next(_meetings)}", store)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:  # a variable is missing; nobody is at the address
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        advice = "start staff with torchrun, or unset WORLD_SIZE"
        if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun has
            advice = (
                "between machines set GLOO_SOCKET_IFNAME to the network interface that connects "
                "them, and let its ports through the firewall"
            )
        raise ConfigError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} says that this is one of several processes, "
            f"but it cannot reach the others ({reason}): {advice}"
        ) from error
    team = Team(dist.get_rank(), dist.get_world_size())
    with alone() as told:
        _take_own_gpu(int(told.get("LOCAL_RANK") or 0))
        _here.append(team)
        alive = Heartbeat(store, rank=team.rank, size=team.size)
        try:
            if team.rank:
                with alive:
                    follow(team)
                yield False
                return
            try:
                with alive:
                    yield True
            except StaffError as error:
                with suppress(StaffError):
                    team.dismiss(error)
                raise
            team.dismiss()
        finally:
            _here.pop()
            dist.destroy_process_group()


def _take_own_gpu(number: int) -> None:
    """Let `--device auto` and `cuda` mean another GPU in each process of a machine."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())
