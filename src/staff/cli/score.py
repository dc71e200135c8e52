"""`staff score`: one model's scores of every row."""

from staff.cli.dry_run import show_plan
from staff.cli.flags import command_app, verb
from staff.cli.terminal import Terminal
from staff.runs.config import ScoreConfig

EXAMPLES = """
  # effort, loss, entropy, EL2N and response length of
  # every row, as Parquet
  staff score train.jsonl --model MODEL --out scores/model

  # with an adapter, and with mean hidden states stored too
  staff score train.jsonl --model MODEL \\
    --adapter runs/x/adapter --features \\
    --out scores/tuned
"""


@verb(ScoreConfig, dry_run=True, torchrun=True)
def score(config: ScoreConfig, terminal: Terminal) -> None:
    """Score a file and say where the scores are."""
    from staff.checks import check_inputs

    check_inputs(config)
    if terminal.dry_run:
        show_plan(config, terminal)
        return
    from staff.reports.text import render

    with terminal.loading():
        from staff import single
    manifest = single.score(config, progress=terminal.progress, say=terminal.say)
    if manifest:
        text = render(manifest, folder=str(config.out), width=terminal.width)
        terminal.summary(text, folder=str(config.out))


app = command_app("score", score, examples=EXAMPLES)
