"""What ``--dry-run`` prints."""

from staff.cli.terminal import Terminal
from staff.runs.config import EvaluateConfig, FinetuneConfig, ScoreConfig, SelectConfig


def show_plan(
    config: SelectConfig | ScoreConfig | FinetuneConfig | EvaluateConfig, terminal: Terminal
) -> None:
    """Read the data, and print what the command would do with it."""
    from staff.reports.facts import render_plan

    with terminal.loading():
        from staff import planning
    if isinstance(config, SelectConfig):
        plan = planning.plan(config, progress=terminal.progress)
    else:
        plan = planning.plan_one_stage(config, progress=terminal.progress)
    terminal.result(render_plan(plan, width=terminal.width))
