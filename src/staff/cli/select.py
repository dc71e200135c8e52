"""`staff select`: the main job."""

from staff.cli.dry_run import show_finished, show_plan
from staff.cli.flags import command_app, verb
from staff.cli.terminal import Terminal
from staff.runs.config import SelectConfig
from staff.runs.store import RunFolder

EXAMPLES = """
  # 10 % and 20 % of the rows, from one scoring pass
  staff select train.jsonl --small SMALL --target TARGET \\
    --keep 0.1 0.2 --out runs/x

  # select again from the stored scores, in seconds
  staff select --scores runs/x --keep 0.3 --within random

  # another method on the same scores, each source in
  # proportion, test ids excluded
  staff select --scores runs/x --method ccs --keep 0.2 \\
    --quota-column source --exclude test-ids.txt

  # columns with other names; rows that cannot be used are
  # skipped
  staff select train.csv --small SMALL --target TARGET \\
    --total 1000 --prompt-template "{question}" \\
    --response-column answer --on-bad-row skip \\
    --out runs/y

  # two processes share the scoring; several machines also
  # need a shared run folder
  torchrun --nproc-per-node 2 -m staff select \\
    --config runs/x/config.yaml

  # repeat the run
  staff select --config runs/x/config.yaml
"""


@verb(SelectConfig, dry_run=True, torchrun=True)
def select(config: SelectConfig, terminal: Terminal) -> None:
    """Choose coresets and show why they look as they do."""
    from staff.checks import check_inputs, with_sibling

    config = with_sibling(config, terminal.say)
    check_inputs(config)
    if terminal.dry_run:
        if finished_already(config, terminal):
            show_finished(config.folder, terminal)
        else:
            show_plan(config, terminal)
        return
    from staff.reports.text import render

    with terminal.loading():
        from staff import pipeline
    run = pipeline.reselect if config.scores else pipeline.select
    manifest = run(config, progress=terminal.progress, say=terminal.say)
    if manifest:
        text = render(manifest, folder=config.folder, width=terminal.width)
        terminal.summary(text, folder=config.folder)


def finished_already(config: SelectConfig, terminal: Terminal) -> bool:
    """Whether the run is in its folder and would be left as it is."""
    if config.overwrite or not RunFolder(config.folder).finished:
        return False  # without torch
    with terminal.loading():
        from staff import pipeline
    return pipeline.is_finished(config, progress=terminal.progress)


app = command_app("select", select, examples=EXAMPLES)
