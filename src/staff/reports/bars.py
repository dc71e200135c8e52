"""Progress as bars: on a terminal, or in the output of a notebook's cell."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from staff.progress import Progress, Stage
from staff.visible import visible
from staff.words import count

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

REFRESH = 0.25  # seconds between two pictures of a bar in a notebook


class TerminalProgress:
    """One bar a stage, with count, speed and time left; finished bars stay on the screen."""

    def __init__(self, console: "Console") -> None:
        self._console = console

    @contextmanager
    def stage(
        self, name: str, *, total: int | None = None, unit: str = "rows", exact: bool = True
    ) -> Iterator[Stage]:
        """Draw a bar while the block runs."""
        with _bars(self._console, refresh_per_second=8) as bars:
            drawn = _Drawn(bars, name, total, unit, exact=exact)
            yield drawn
            drawn.finish()


class NotebookProgress:
    """The same in the output of a cell, where the finished bars stay; needs no widgets.

    rich draws them; that it also draws them live takes ipywidgets, so they are shown again here.
    """

    def __init__(self, console: "Console") -> None:
        self._console = console

    @contextmanager
    def stage(
        self, name: str, *, total: int | None = None, unit: str = "rows", exact: bool = True
    ) -> Iterator[Stage]:
        """Show a bar below the cell while the block runs."""
        from IPython.display import display

        bars = _bars(self._console, auto_refresh=False)  # never started: shown by IPython
        shown: Any = None
        last = time.monotonic()

        def show(now: bool = False) -> None:
            nonlocal last
            if now or time.monotonic() - last >= REFRESH:
                last = time.monotonic()
                shown.update(bars.make_tasks_table(bars.tasks))

        drawn = _Drawn(bars, name, total, unit, exact=exact, show=show)
        shown = display(bars.make_tasks_table(bars.tasks), display_id=True)
        try:
            yield drawn
            drawn.finish()
        finally:
            bars.stop_task(drawn.task)
            show(now=True)


def bars() -> Progress:
    """Bars where the caller works: rich finds out whether that is a notebook."""
    from rich.console import Console

    console = Console()
    return NotebookProgress(console) if console.is_jupyter else TerminalProgress(console)


class _Drawn:
    """A stage under way as one bar. show: called when it has changed."""

    def __init__(
        self,
        bars: "Bars",
        name: str,
        total: int | None,
        unit: str,
        *,
        exact: bool,
        show: Callable[[], None] = lambda: None,
    ) -> None:
        self._bars, self._name, self._show = bars, name, show
        self._total, self._unit, self._exact = total, unit, exact
        self.task = bars.add_task(name, total=total, state=_of(0, total, unit, exact))

    def advance(self, amount: int = 1) -> None:
        """Draw `amount` more units."""
        self._bars.advance(self.task, amount)
        state = _of(self._done, self._total, self._unit, self._exact)
        self._bars.update(self.task, state=state)
        self._show()

    def skip(self, amount: int) -> None:
        """Draw what was done before: rich measures the speed from the first step drawn on."""
        self.advance(amount)

    def note(self, text: str) -> None:
        """Write a line that names the stage."""
        line = visible(f"{self._name}: {text}")
        self._bars.console.print(line, markup=False, highlight=False)

    def finish(self) -> None:
        """Fill a bar whose end was not known."""
        if self._total is None or not self._exact:
            done, state = max(self._done, 1), _of(self._done, None, self._unit, self._exact)
            self._bars.update(self.task, total=done, completed=done, state=state)

    @property
    def _done(self) -> int:
        return int(self._bars.tasks[self.task].completed)


def _bars(console: "Console", **settings: Any) -> "Bars":
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<18}", markup=False),
        BarColumn(bar_width=None, style="bright_black"),
        TextColumn("{task.fields[state]}", markup=False, justify="right"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, **settings)


def _of(done: int, total: int | None, unit: str, exact: bool) -> str:
    of = "" if total is None else f"/{about(total, exact)}"
    return f"{count(done)}{of} {unit}"


def about(total: int, exact: bool) -> str:
    """A number of units, marked where it is an estimate."""
    return count(total) if exact else f"~{count(total)}"
