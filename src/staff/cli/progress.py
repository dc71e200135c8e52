"""Progress when the output is piped: a few plain lines. On a terminal: reports/bars."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from staff.progress import Stage
from staff.reports.bars import about
from staff.reports.numbers import duration
from staff.visible import visible
from staff.words import count

Clock = Callable[[], float]


class PlainProgress:
    """Lines for logs: the start and end of each stage, and now and then how far it is.

    The first line comes after `every_seconds`; later ones as rarely as keeps a long
    run's log short (at most one in a minute from 20 minutes on).
    """

    def __init__(
        self, stream: TextIO, *, every_seconds: float = 5.0, clock: Clock = time.monotonic
    ) -> None:
        self._stream = stream
        self._every = every_seconds
        self._clock = clock

    @contextmanager
    def stage(
        self, name: str, *, total: int | None = None, unit: str = "rows", exact: bool = True
    ) -> Iterator[Stage]:
        """Announce a stage, yield it, and say how long it took."""
        stage = _PlainStage(self, name, total, unit, exact=exact)
        of = "" if total is None else f": {about(total, exact)} {unit}"
        self.line(f"{name}{of} …")
        try:
            yield stage
        except BaseException:
            self.line(f"{name}: stopped after {duration(self._clock() - stage.start)}")
            raise
        done = f"{count(stage.done)} {unit} in " if stage.done else ""
        self.line(f"{name}: {done}{duration(self._clock() - stage.start)}")

    def line(self, text: str) -> None:
        """Write one line at once."""
        print(visible(text), file=self._stream, flush=True)


class _PlainStage:
    def __init__(
        self, log: PlainProgress, name: str, total: int | None, unit: str, *, exact: bool
    ) -> None:
        self._log, self._name, self._total, self._unit = log, name, total, unit
        self._exact = exact
        self.start = self._last = log._clock()
        self.done = self._skipped = 0

    def advance(self, amount: int = 1) -> None:
        """Count, and write a line when it is time for one."""
        self.done += amount
        now = self._log._clock()
        pause = max(self._log._every, min(60.0, (now - self.start) / 20))
        if now - self._last >= pause and self.done != self._total:
            self._last = now
            self._log.line(self._state(now - self.start))

    def skip(self, amount: int) -> None:
        """Count what was done before, which took no time now."""
        self.done += amount
        self._skipped += amount

    def note(self, text: str) -> None:
        """Write a line that names the stage."""
        self._log.line(f"{self._name}: {text}")

    def _state(self, elapsed: float) -> str:
        speed = (self.done - self._skipped) / elapsed if elapsed > 0 else 0.0
        rate = f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"
        if self._total is None:
            return f"{self._name}: {count(self.done)} {self._unit}, {rate}/s"
        ahead = max(0, self._total - self.done)  # an estimate may fall short
        left = duration(ahead / speed) if speed else "unknown time"
        of = f"{count(self.done)} of {about(self._total, self._exact)} {self._unit}"
        return f"{self._name}: {of}, {rate}/s, {left} left"
