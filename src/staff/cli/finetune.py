"""`staff finetune`: train a LoRA adapter, on a coreset or on anything else."""

from staff.cli.dry_run import show_plan
from staff.cli.flags import command_app, verb
from staff.cli.terminal import Terminal
from staff.runs.config import FinetuneConfig

EXAMPLES = """
  staff finetune runs/x/coreset-0.1.jsonl --model TARGET \\
    --out runs/x-tuned-0.1
  staff finetune runs/x/coreset-0.1.jsonl --model TARGET \\
    --out tuned --epochs 1 --learning-rate 2e-4

  # too large for one GPU: shard its weights over four
  torchrun --nproc-per-node 4 -m staff finetune \\
    runs/x/coreset-0.1.jsonl --model TARGET --out sharded \\
    --fsdp --activation-checkpointing
"""


@verb(FinetuneConfig, dry_run=True, torchrun=True)
def finetune(config: FinetuneConfig, terminal: Terminal) -> None:
    """Train and say where the adapter is."""
    from staff.checks import check_inputs

    check_inputs(config)
    if terminal.dry_run:
        show_plan(config, terminal)
        return
    from staff.reports.facts import render_facts

    with terminal.loading():
        from staff import single
    facts = single.finetune(config, progress=terminal.progress, say=terminal.say)
    if facts:
        terminal.summary(render_facts(facts), folder=str(config.out))


app = command_app("finetune", finetune, examples=EXAMPLES)
