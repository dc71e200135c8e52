"""`staff export`: a coreset in a trainer's own format, and what its run needs."""

from collections.abc import Mapping
from typing import Any

from staff.cli.flags import command_app, verb
from staff.cli.terminal import Terminal
from staff.runs.export_config import ExportConfig
from staff.visible import one_line
from staff.words import rows_of

EXAMPLES = """
  staff export runs/x --keep 0.1 --to trl
  staff export runs/x --keep 0.1 --to llama-factory \\
    --out lf
  staff export runs/x --keep n500 --to axolotl \\
    --model TARGET
  staff export runs/x --keep 0.2 --to hf-dataset
"""


@verb(
    ExportConfig,
    dry_run="Check every row, show what would be written and stop.",
    operand="run",
)
def export(config: ExportConfig, terminal: Terminal) -> None:
    """Write the folder, and say what it contains and what to run next."""
    from staff.exports import export as job

    facts = job.export(
        str(config.run),
        to=str(config.to),
        keep=config.keep,
        model=config.model,
        out=config.out,
        on_bad_row=config.on_bad_row,
        overwrite=config.overwrite,
        dry_run=terminal.dry_run,
        progress=terminal.progress,
        say=terminal.say,
    )
    (terminal.result if terminal.dry_run else terminal.summary)(told(facts))


def told(facts: Mapping[str, Any]) -> str:
    """What an export is, in a few lines; one that was only planned has no hashes of files."""
    folder, coreset = one_line(facts["folder"]), facts["coreset"]["name"]
    planned = facts["files"] is None
    head = "Nothing was written. It would write" if planned else "Written:"
    lines = [f"{head} {rows_of(facts['rows'])} of coreset {coreset}, for {facts['trainer']}"]
    lines += [f"  {folder}/{one_line(name)}" for name in facts["files"] or [""]]
    if facts["model"]:
        length = f"{facts['length']} tokens" if facts["length"] else "a length to set in train.yaml"
        cut = f"longer rows are truncated to {length}"
        if facts["all_fit"]:
            cut = f"no row reaches the maximum length of {length}"
        lines += [f"Model {one_line(facts['model'])}; {cut}"]
    if facts["bits"]:
        way = "QLoRA" if facts["bits"] == 4 else "LoRA"
        lines += [f"Its weights in {facts['bits']} bits, as in the run ({way}): needs bitsandbytes"]
    if facts["rejected"]:
        lines += [f"{rows_of(facts['rejected'])} left out: see rejected.jsonl"]
    if facts["turns_cut"]:
        their = "its" if facts["turns_cut"] == 1 else "their"
        lines += [f"{rows_of(facts['turns_cut'])} without the turns after {their} last answer"]
    for name in facts["not_given"]:
        lines += [
            f"{name} left out: {facts['trainer']} does not hand it to the chat template, so the "
            "text may differ from what was scored"
        ]
    if named := [name for name in facts["left_out"] if name not in facts["not_given"]]:
        names = ", ".join(map(one_line, named))
        what = "Columns left out because of their names"
        if len(named) == 1:
            what = "Column left out because of its name"
        lines += [f"{what}: {names}"]
    if not planned:
        lines += ["", "Next:", f"  {one_line(facts['next'])}"]
    return "\n".join(lines) + "\n"


app = command_app("export", export, examples=EXAMPLES)
