"""What ``--dry-run`` prints."""

from staff.cli.terminal import Terminal
from staff.runs.config import EvaluateConfig, FinetuneConfig, ScoreConfig, SelectConfig


def show_plan(
    config: SelectConfig | ScoreConfig | FinetuneConfig | EvaluateConfig, terminal: Terminal
) -> None:
    """Read the data, and print what the command would do with it.

    Raises what it would, of another result in the folder of a command on one model.
    """
    from staff.checks import may_be_finished
    from staff.reports.facts import render_plan

    if not isinstance(config, SelectConfig) and may_be_finished(config):  # without torch
        with terminal.loading():
            from staff import single
        if single.is_finished(config, progress=terminal.progress):
            show_finished(config.out, terminal)
            return
    with terminal.loading():
        from staff import planning
    if isinstance(config, SelectConfig):
        plan = planning.plan(config, progress=terminal.progress)
    else:
        plan = planning.plan_one_stage(config, progress=terminal.progress)
    terminal.result(render_plan(plan, width=terminal.width))


def show_finished(folder: str | None, terminal: Terminal) -> None:
    """Print that the command would leave what is there as it is."""
    terminal.result(
        f"Nothing was run, and nothing would be: {folder} is already finished, made from the same "
        "inputs, settings and versions; --overwrite makes it again"
    )
