"""Where a verb's output goes: results to standard output, everything else to standard error."""

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from staff.errors import StaffError
from staff.progress import Progress, SilentProgress
from staff.team import helps
from staff.visible import visible

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Terminal:
    """The user's side of a run. `quiet`: only errors and what was asked for.

    No control character in data or paths reaches the user's terminal.
    """

    progress: Progress
    quiet: bool = False
    dry_run: bool = False
    json: bool = False
    console: "Console | None" = None

    def say(self, text: str) -> None:
        """Print a remark on the way, e.g. that a stage is reused; not if quiet."""
        if self.quiet:
            return
        text = visible(text)
        if self.console is not None:  # keeps a bar below the line
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Say, on a terminal, why nothing happens for a few seconds: imports of torch."""
        if self.quiet or self.console is None:
            yield
            return
        with self.console.status("loading torch …"):
            yield

    def result(self, text: str, *, folder: str | None = None) -> None:
        """Write what the user asked for to standard output.

        folder: where what it tells of is finished. Raises `StaffError` if there is no room for it,
        say: the folder's disk need not be full.
        """
        try:
            sys.stdout.write(visible(text if text.endswith("\n") else text + "\n"))
            sys.stdout.flush()
        except BrokenPipeError:  # of a reader that has seen enough
            raise
        except OSError as error:
            done = f"; the run is complete in {folder}" if folder else ""
            raise StaffError(
                f"standard output could not be written ({error.strerror}){done}"
            ) from None

    def summary(self, text: str, *, folder: str | None = None) -> None:
        """Write a result that a quiet user does not want."""
        if not self.quiet:
            self.result(text, folder=folder)

    @property
    def width(self) -> int:
        """Columns of the terminal (or of $COLUMNS); 100 when piped."""
        return shutil.get_terminal_size((PIPED_WIDTH, 24)).columns


def open_terminal(
    *, quiet: bool = False, verbose: bool = False, dry_run: bool = False, json: bool = False
) -> Terminal:
    """Choose how progress is shown, and keep the libraries' own chatter off the screen.

    quiet: no progress, no summary. verbose: progress lines each second when piped, and
    what the libraries log and warn.
    """
    quiet = quiet or helps()  # the process that leads tells of the run
    _set_library_noise(verbose)
    progress: Progress
    console = None if quiet else _console()
    if quiet:
        progress = SilentProgress()
    elif console is not None:
        from staff.reports.bars import TerminalProgress

        progress = TerminalProgress(console)
    else:
        from staff.cli.progress import PlainProgress

        progress = PlainProgress(sys.stderr, every_seconds=1.0 if verbose else 5.0)
    return Terminal(progress=progress, quiet=quiet, dry_run=dry_run, json=json, console=console)


def _console() -> "Console | None":
    """A terminal that bars can be drawn on; on another (TERM=dumb) they would show when done."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console

    console = Console(stderr=True)
    return console if console.is_interactive else None


def _set_library_noise(verbose: bool) -> None:
    """Before torch and transformers are imported: they read these once."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if verbose else logging.ERROR,
        format="%(name)s: %(message)s",
    )
    if verbose:
        return
    warnings.simplefilter("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DATASETS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # it tells of every retry
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # or it warns of every fork
