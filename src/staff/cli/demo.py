"""`staff demo`: the whole job on data and models that come with the package."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from staff.cli.dry_run import show_plan
from staff.cli.flags import Debug, DryRun, Quiet, Verbose, command_app, refuse_team
from staff.cli.terminal import open_terminal

EXAMPLES = """
  staff demo
  staff demo --out /tmp/demo
"""

OWN_DATA = """\
On your own data
  staff select train.jsonl --small SMALL --target TARGET --keep 0.1 0.2 --out runs/mine
"""


def demo(
    *,
    out: Annotated[
        Path,
        Parameter(help="Folder to write to.", show_default=lambda _: "runs/demo", metavar="STR"),
    ] = Path("runs/demo"),
    overwrite: Annotated[
        bool | None,
        Parameter(help="Replace an earlier run in the folder and start over.", negative=()),
    ] = None,
    dry_run: DryRun = None,
    quiet: Quiet = None,
    verbose: Verbose = None,
    debug: Debug = None,
) -> None:
    """Select, fine-tune, evaluate and compare with a random subset."""
    refuse_team("demo")
    terminal = open_terminal(quiet=bool(quiet), verbose=bool(verbose))
    from staff.reports.comparison import render_comparison
    from staff.reports.text import render

    with terminal.loading():
        from staff import demo as job
    if dry_run:
        show_plan(job.selection(out), terminal)
        terminal.result(
            "Then it would fine-tune the target on the coreset and on a random subset, evaluate "
            "both\nand the untuned target on the test rows, and compare.\n"
        )
        return
    manifest = job.run(out, overwrite=bool(overwrite), progress=terminal.progress, say=terminal.say)
    terminal.summary(render(manifest, folder=str(out), width=terminal.width))
    terminal.summary("\n" + render_comparison(manifest, width=terminal.width))
    terminal.summary("\n" + OWN_DATA)


app = command_app("demo", demo, examples=EXAMPLES)
