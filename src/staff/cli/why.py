"""`staff why`: the story of one row, in plain words."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from staff.cli.flags import Debug, Quiet, Verbose, command_app
from staff.cli.terminal import Terminal
from staff.errors import ConfigError
from staff.progress import SilentProgress

EXAMPLES = """
  staff why runs/x --row 17
  staff why runs/x --id 9f86d081884c7d65-0

  # a rejected row (rejected.jsonl) is found by its id in
  # --id-column, if there is one
  staff why runs/x --id mine-17
"""


def why(
    run: Annotated[Path | None, Parameter(help="Run folder.", show_default=False)] = None,
    *,
    id: Annotated[
        str | None,
        Parameter(help="Id of the row, as in selection.parquet or in the id column of the data."),
    ] = None,
    row: Annotated[
        str | None, Parameter(help="Position of the row in the file, from 0.", metavar="NUMBER")
    ] = None,
    quiet: Quiet = None,
    verbose: Verbose = None,
    debug: Debug = None,
) -> None:
    """Explain, for every coreset of the run, why a row is in it or not."""
    from staff.cli.story import tell

    if run is None:
        raise ConfigError("which run? e.g. staff why runs/x --row 17")
    if (id is None) == (row is None):
        raise ConfigError("which row? give either --id ID or --row N")
    if row is not None and not row.isdecimal():
        raise ConfigError(f"--row must be a whole number from 0 on, not {row!r}")
    terminal = Terminal(SilentProgress())
    terminal.result(tell(run, id=id, row=None if row is None else int(row), width=terminal.width))


app = command_app("why", why, examples=EXAMPLES)
