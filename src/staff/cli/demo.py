"""`staff demo`: the whole job on data and models that come with the package."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from staff.cli.flags import Debug, Quiet, Verbose, command_app
from staff.cli.terminal import open_terminal

EXAMPLES = """
  staff demo
  staff demo --out /tmp/demo
"""


def demo(
    *,
    out: Annotated[
        str, Parameter(help="Folder to write to.", show_default=lambda _: "runs/demo")
    ] = "runs/demo",
    quiet: Quiet = None,
    verbose: Verbose = None,
    debug: Debug = None,
) -> None:
    """Select, fine-tune, evaluate and compare with a random subset."""
    terminal = open_terminal(quiet=bool(quiet), verbose=bool(verbose))
    from staff import demo as job  # torch
    from staff.reports.facts import render_facts
    from staff.reports.text import render

    manifest = job.run(Path(out), progress=terminal.progress, say=terminal.say)
    terminal.summary(render(manifest, folder=out, width=terminal.width))
    if "demo" in manifest:
        terminal.result("\n" + render_facts({"What the coreset is worth": manifest["demo"]}))


app = command_app("demo", demo, examples=EXAMPLES)
