"""How library code reports progress; `staff.cli.progress` and `staff.reports.bars` show it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

WARNING = "warning: "  # what a run says begins with this where a user should know it

Say = Callable[[str], None]


def silent(_: str) -> None:
    """Say nothing."""


class Stage(Protocol):
    """One stage under way."""

    def advance(self, amount: int = 1) -> None:
        """Report `amount` more units done."""

    def skip(self, amount: int) -> None:
        """Report units that an earlier start did, before any other: they tell no speed."""

    def note(self, text: str) -> None:
        """Report a fact worth a line, e.g. a halved batch."""


class Progress(Protocol):
    """Receives the stages of a run in order."""

    def stage(
        self, name: str, *, total: int | None = None, unit: str = "rows", exact: bool = True
    ) -> AbstractContextManager[Stage]:
        """Context manager that yields a `Stage`. exact: False if `total` is an estimate."""


class _SilentStage:
    def advance(self, amount: int = 1) -> None:
        """Say nothing."""

    def skip(self, amount: int) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""


class SilentProgress:
    """The default of every library function: nothing is shown."""

    @contextmanager
    def stage(
        self, name: str, *, total: int | None = None, unit: str = "rows", exact: bool = True
    ) -> Iterator[Stage]:
        """Yield a stage that says nothing."""
        yield _SilentStage()
