"""`staff plan`: what a selection costs and saves, before it is run."""

import json

from staff.cli.flags import command_app, verb
from staff.cli.terminal import Terminal
from staff.runs.plan_config import PlanConfig

EXAMPLES = """
  # FLOPs, memory and hours on a device of the table; no
  # weights are needed
  staff plan train.jsonl --small SMALL --target TARGET \\
    --keep 0.1 0.2 --device h100-80gb

  # measured on this machine with a few real batches
  staff plan train.jsonl --small SMALL --target TARGET \\
    --keep 0.2 --probe

  # small model from the table of families, JSON output
  staff plan train.jsonl --small auto \\
    --target meta-llama/Llama-3.1-8B --keep 0.2 \\
    --device l40s --json
"""


@verb(PlanConfig, json=True)
def plan(config: PlanConfig, terminal: Terminal) -> None:
    """Weigh a selection and print what was found."""
    from staff.checks import check_inputs, with_sibling

    config = with_sibling(config, terminal.say)
    check_inputs(config)
    from staff.reports.plan import render_costs

    with terminal.loading():
        from staff.planning.estimate import estimate
    found = estimate(config, progress=terminal.progress)
    text = (
        json.dumps(found, indent=1) if terminal.json else render_costs(found, width=terminal.width)
    )
    terminal.result(text)


app = command_app("plan", plan, examples=EXAMPLES)
