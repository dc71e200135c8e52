"""`staff compare`: is a coreset better than a random one on this task, and by how much?"""

from staff.cli.flags import command_app, verb
from staff.cli.terminal import Terminal
from staff.runs.compare_config import CompareConfig

EXAMPLES = """
  # STAFF against a random subset, three seeds
  staff compare train.jsonl --test test.jsonl \\
    --small SMALL --target TARGET --keep 0.1 0.2 \\
    --out compared

  # a coreset of your own against a random subset
  staff compare train.jsonl --test test.jsonl \\
    --target TARGET --keep 0.1 --methods random \\
    --own mine=mine.jsonl --out compared-own

  # two more seeds: only what is missing is computed
  staff compare --config compared/config.yaml --seeds 5

  # show what would be done, and how many tokens it takes
  staff compare --config compared/config.yaml --seeds 10 \\
    --dry-run
"""


@verb(CompareConfig, dry_run=True)
def compare(config: CompareConfig, terminal: Terminal) -> None:
    """Select, tune and evaluate with every method, and show the differences."""
    from staff.checks import check_inputs, with_sibling

    config = with_sibling(config, terminal.say)
    check_inputs(config)
    from staff.reports.compared import render_compared
    from staff.reports.facts import render_plan

    with terminal.loading():
        from staff.compare.plan import plan
        from staff.compare.run import compare as run
    if terminal.dry_run:
        planned = plan(config, progress=terminal.progress)
        terminal.result(render_plan(planned, width=terminal.width))
        return
    result = run(config, progress=terminal.progress, say=terminal.say)
    text = render_compared(result, folder=config.folder, width=terminal.width)
    terminal.summary(text, folder=config.folder)


app = command_app("compare", compare, examples=EXAMPLES)
