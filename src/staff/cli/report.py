"""`staff report`: the summary of a finished run again."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from staff.cli.flags import Debug, Quiet, Verbose, command_app
from staff.cli.terminal import Terminal
from staff.errors import ConfigError, DataError
from staff.progress import SilentProgress

EXAMPLES = """
  staff report runs/x
  staff report runs/x | less
  staff report compared
"""
THERE = "run staff report there"  # where the run was started, if it names its data from there


def report(
    run: Annotated[Path | None, Parameter(help="Run folder.", show_default=False)] = None,
    *,
    quiet: Quiet = None,
    verbose: Verbose = None,
    debug: Debug = None,
) -> None:
    """Print what the command that made the run printed at its end, and write report.html again."""
    from staff.reports.compared import render_compared
    from staff.reports.compared_html import write_compared
    from staff.reports.comparison import render_comparison
    from staff.reports.text import render
    from staff.runs.compare_folder import CompareFolder
    from staff.runs.manifest import check_selection, read_comparison, read_manifest

    if run is None:
        raise ConfigError("which run? e.g. staff report runs/x")
    terminal = Terminal(SilentProgress())
    folder = str(run)
    comparison = CompareFolder(run)
    if comparison.is_comparison:
        comparison.check_finished()
        found = read_manifest(run, name="compare.json")
        try:
            write_compared(comparison.report, found)
            terminal.say(f"Report: {comparison.report}.")
        finally:
            terminal.result(render_compared(found, folder=folder, width=terminal.width))
        return
    manifest = read_manifest(run)
    check_selection(run, manifest)
    try:  # before the text, whose reader may go away
        if manifest.get("coresets"):  # staff score has no page
            terminal.say(write_page(folder, manifest))
    finally:  # the summary does not need a folder that can be written to
        terminal.result(render(manifest, folder=folder, width=terminal.width))
        if demo := read_comparison(run):
            terminal.result("\n" + render_comparison(demo, width=terminal.width))


def write_page(folder: str, manifest: dict[str, Any]) -> str:
    """Write report.html; return a line that says so, or why not."""
    from staff.reports.html import data_of, write_report
    from staff.runs.facts import told_of_data
    from staff.runs.store import RunFolder

    run = RunFolder(folder)
    source, missing = None, ""
    try:
        source = data_of(manifest)
    except DataError as error:
        why = told_of_data(error, manifest["data"], THERE)
        if run.report.is_file():
            return f"{run.report} was not rewritten: {why}"
        missing = f"Prompts and responses are missing: {why}"
    write_report(run, manifest, source, missing=missing)
    return f"Report: {run.report}. {missing}".rstrip(". ") + "."


app = command_app("report", report, examples=EXAMPLES)
