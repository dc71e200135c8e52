"""Whether the other processes of a team are still there, where no connection tells.

A process that ends closes its connections, and those that wait for it see that. A machine that
loses its power or its network closes nothing, and what it owes would be waited for without end. So
every process says now and then in the store where they met that it is alive.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from itertools import count
from threading import Event, Thread
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Self

from staff.errors import ProcessGoneError

if TYPE_CHECKING:
    from torch.distributed import Store

EVERY, PATIENCE = 20.0, 600.0  # seconds: between signs of life; without one of another process


class Heartbeat:
    """Signs of life of one process while the block runs, and an ear for those of the others.

    store: where they met. every, patience: seconds. gone: called with the rank of a process that
    has not been heard of for so long, in another thread: the main one may be waiting for it in a
    library, where nothing reaches it.
    """

    def __init__(
        self,
        store: "Store",
        *,
        rank: int,
        size: int,
        every: float = EVERY,
        patience: float = PATIENCE,
        gone: Callable[[int], None] | None = None,
    ) -> None:
        # A connection of its own: the other one may be waiting.
        self._store = store.clone()  # type: ignore[attr-defined]
        self._store.set_timeout(timedelta(seconds=patience))
        self._rank = rank
        self._others = [other for other in range(size) if other != rank]
        self._every, self._patience = every, patience
        self._gone = gone or leave
        self._over = Event()
        self._heard = dict.fromkeys(self._others, monotonic())
        self._threads = [Thread(target=f, daemon=True) for f in (self._talk, self._watch)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=5)  # the one that talks may hang

    def _talk(self) -> None:
        """Say that this process is there, and hear who else is.

        Where the store is gone, or the machine that holds it, nobody is heard of any more.
        """
        last: dict[int, bytes] = {}
        for number in count():
            with suppress(RuntimeError):
                self._store.set(f"alive {self._rank}", str(number))
                for other in self._others:
                    if not self._store.check([f"alive {other}"]):
                        continue
                    said = self._store.get(f"alive {other}")
                    if last.get(other) != said:
                        last[other], self._heard[other] = said, monotonic()
            if self._over.wait(self._every):
                return

    def _watch(self) -> None:
        """Tell of a process that is silent; not in the thread that talks, which may hang itself."""
        before = monotonic()
        while not self._over.wait(self._every):
            now = monotonic()
            if now - before > self._patience / 2:  # it is this process that stood still
                self._heard = dict.fromkeys(self._others, now)
            before = now
            silent = [r for r, at in self._heard.items() if now - at > self._patience]
            if silent:
                self._gone(min(silent))
                return


def leave(rank: int) -> None:
    """End this process: nothing wakes a thread that waits for another machine."""
    minutes = PATIENCE / 60
    sys.stderr.write(
        f"error: process {rank} of this run has not been heard of for {minutes:.0f} minutes (its "
        "machine, the network or torchrun is gone, or stands still): run the same command again; "
        "finished stages and shards are kept\n"
    )
    sys.stderr.flush()
    os._exit(ProcessGoneError.exit_code)
