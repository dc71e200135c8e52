"""`staff families`: which small model goes with a target."""

import json
from typing import Annotated

from cyclopts import Parameter

from staff.cli.flags import Debug, command_app
from staff.cli.terminal import Terminal
from staff.errors import ConfigError
from staff.progress import SilentProgress

EXAMPLES = """
  staff families
  staff families qwen
  staff families llama --json
"""


def families(
    word: Annotated[
        str | None,
        Parameter(
            help="List only models with this word in their name or family.", show_default=False
        ),
    ] = None,
    *,
    json_: Annotated[
        bool | None, Parameter(name="--json", help="Print the result as JSON.", negative=())
    ] = None,
    debug: Debug = None,
) -> None:
    """List the targets that --small auto knows, with their small models and sources."""
    from staff.models.families import pairs
    from staff.reports.families import render_families

    found = pairs(word or "")
    if not found:
        raise ConfigError(
            f"no target in the table of families has {word!r} in its name or family; "
            "staff families lists all"
        )
    terminal = Terminal(SilentProgress())
    text = json.dumps(found, indent=1) if json_ else render_families(found, width=terminal.width)
    terminal.result(text)


app = command_app("families", families, examples=EXAMPLES)
