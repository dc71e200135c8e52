"""Progress as bars: on a terminal, or in the output of a notebook's cell."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from staff.progress import Stage
from staff.reports.numbers import count
from staff.visible import visible

if TYPE_CHECKING:
    from rich.console import Console


class TerminalProgress:
    """One bar a stage, with count, speed and time left; finished bars stay on the screen."""

    def __init__(self, console: "Console") -> None:
        self._console = console

    @contextmanager
    def stage(
        self, name: str, *, total: int | None = None, unit: str = "rows", exact: bool = True
    ) -> Iterator[Stage]:
        """Draw a bar while the block runs."""
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
        with Progress(*columns, console=self._console, refresh_per_second=8) as bars:
            task = bars.add_task(name, total=total, state=_of(0, total, unit, exact))

            class Drawn:
                def advance(self, amount: int = 1) -> None:
                    bars.advance(task, amount)
                    done = int(bars.tasks[task].completed)
                    bars.update(task, state=_of(done, total, unit, exact))

                def note(self, text: str) -> None:
                    bars.console.print(visible(f"{name}: {text}"), markup=False, highlight=False)

            yield Drawn()
            if total is None or not exact:
                done = int(bars.tasks[task].completed)
                state = _of(done, None, unit, exact)
                bars.update(task, total=max(done, 1), completed=max(done, 1), state=state)


def _of(done: int, total: int | None, unit: str, exact: bool) -> str:
    of = "" if total is None else f"/{about(total, exact)}"
    return f"{count(done)}{of} {unit}"


def about(total: int, exact: bool) -> str:
    """A number of units, marked where it is an estimate."""
    return count(total) if exact else f"~{count(total)}"


def bars() -> TerminalProgress:
    """Bars where the caller works: rich finds out whether that is a notebook."""
    from rich.console import Console

    return TerminalProgress(Console())
