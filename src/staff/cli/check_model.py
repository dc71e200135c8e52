"""`staff check-model`: are the fast scores of a model right?"""

from staff.cli.flags import command_app, verb
from staff.cli.terminal import Terminal
from staff.errors import StaffError
from staff.runs.config import CheckModelConfig

EXAMPLES = """
  staff check-model SMALL --data train.jsonl
  staff check-model TARGET --data train.jsonl --rows 64 \\
    --device cuda
"""


@verb(CheckModelConfig, operand="model")
def check_model(config: CheckModelConfig, terminal: Terminal) -> None:
    """Show which layer is taken and how far norms are apart; exit code 1 if too far."""
    from staff.checks import check_inputs

    check_inputs(config)
    from staff.reports.checked import render_checked

    with terminal.loading():
        from staff import check_model as job
    facts = job.check_model(config, progress=terminal.progress)
    terminal.result(render_checked(facts, width=terminal.width))
    if not facts["agrees"]:
        worst = max((c for c in facts["comparisons"] if c["judged"]), key=lambda c: c["largest"])
        raise StaffError(
            f"{worst['name']}: the norm of row {worst['row']} differs from plain autograd's by a "
            f"relative {worst['largest']:.1e}, more than --tolerance {config.tolerance:g}. Do not "
            "rely on scores of this model; please report this with the model's name"
        )


app = command_app("check-model", check_model, examples=EXAMPLES)
