"""`staff evaluate`: what a model, or a model with an adapter, is worth on a test file."""

from staff.cli.dry_run import show_plan
from staff.cli.flags import command_app, verb
from staff.cli.terminal import Terminal
from staff.runs.config import EvaluateConfig

EXAMPLES = """
  staff evaluate test.jsonl --model TARGET
  staff evaluate test.jsonl --model TARGET \\
    --adapter runs/x-tuned-0.1 --out runs/x-eval-0.1
  staff evaluate test.jsonl --model TARGET \\
    --metrics loss rougeL
"""


@verb(EvaluateConfig, dry_run=True)
def evaluate(config: EvaluateConfig, terminal: Terminal) -> None:
    """Measure and print; the figures are the result, so they come even when quiet."""
    from staff.checks import check_inputs

    check_inputs(config)
    if terminal.dry_run:
        show_plan(config, terminal)
        return
    from staff.reports.facts import render_facts

    with terminal.loading():
        from staff import single
    facts = single.evaluate(config, progress=terminal.progress, say=terminal.say)
    terminal.result(render_facts(facts))


app = command_app("evaluate", evaluate, examples=EXAMPLES)
