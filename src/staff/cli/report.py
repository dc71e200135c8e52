"""`staff report`: the summary of a finished run again."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from staff.cli.flags import Debug, Quiet, Verbose, command_app
from staff.cli.terminal import Terminal
from staff.errors import ConfigError
from staff.progress import SilentProgress

EXAMPLES = """
  staff report runs/x
  staff report runs/x | less
  staff report compared
"""


def report(
    run: Annotated[str | None, Parameter(help="Run folder.", show_default=False)] = None,
    *,
    quiet: Quiet = None,
    verbose: Verbose = None,
    debug: Debug = None,
) -> None:
    """Print what the command that made the run printed at its end."""
    from staff.reports.compared import render_compared
    from staff.reports.comparison import render_comparison
    from staff.reports.text import render
    from staff.runs.manifest import read_comparison, read_manifest

    if run is None:
        raise ConfigError("which run? e.g. staff report runs/x")
    terminal = Terminal(SilentProgress())
    folder = run.rstrip("/") or run
    if (Path(run) / "compare.json").is_file():
        found = read_manifest(run, name="compare.json")
        terminal.result(render_compared(found, folder=folder, width=terminal.width))
        return
    terminal.result(render(read_manifest(run), folder=folder, width=terminal.width))
    if comparison := read_comparison(run):
        terminal.result("\n" + render_comparison(comparison, width=terminal.width))


app = command_app("report", report, examples=EXAMPLES)
