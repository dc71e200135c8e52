"""`staff cache`: list and remove what is kept across runs."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from staff.cli.terminal import Terminal
from staff.errors import ConfigError
from staff.progress import SilentProgress

EXAMPLES = """
  staff select … --cache ~/.cache/staff
  staff cache ls ~/.cache/staff
  staff cache prune ~/.cache/staff --days 30
  staff cache prune ~/.cache/staff --gigabytes 10
"""
Folder = Annotated[Path, Parameter(help="Cache folder (--cache).", show_default=False)]

app = App(
    name="cache",
    help="List or prune the scores and adapters kept by --cache.",
    help_epilogue=f"Examples:\n\n{EXAMPLES.strip(chr(10))}\n",
)


@app.command
def ls(folder: Folder) -> None:
    """List the cached scores and adapters, least recently used first."""
    from staff.reports.columns import Column, layout
    from staff.runs.cache import Cache, facts_of
    from staff.words import counted

    entries = Cache(folder).check().entries()
    facts = [facts_of(entry) for entry in entries]
    terminal = Terminal(SilentProgress())
    columns = [
        Column("last used", [_day(entry.used) for entry in entries]),
        Column("kind", [entry.kind for entry in entries]),
        Column("MB", [f"{entry.size / 1e6:.1f}" for entry in entries]),
        Column("model", [str(found.get("model_hash", ""))[:12] for found in facts]),
        Column("data", [str(found.get("data_hash", ""))[:12] for found in facts]),
    ]
    size = sum(entry.size for entry in entries) / 1e6
    total = f"{counted(len(entries), 'entry', 'entries')}, {size:.1f} MB"
    table = layout(columns, terminal.width, force=True) if entries else []
    terminal.result("\n".join([*table, total]) + "\n")


@app.command
def prune(
    folder: Folder,
    *,
    days: Annotated[
        float | None, Parameter(help="Remove entries not used for this many days.")
    ] = None,
    gigabytes: Annotated[
        float | None,
        Parameter(
            help="Remove the least recently used entries until at most this many GB are left."
        ),
    ] = None,
) -> None:
    """Remove old entries: give --days, --gigabytes or both."""
    from staff.runs.cache import Cache
    from staff.words import counted

    given = [limit for limit in (days, gigabytes) if limit is not None]
    if not given or not all(limit >= 0 for limit in given):
        raise ConfigError("what should be removed? give --days N or --gigabytes N, 0 or more")
    removed = Cache(folder).check().prune(days=days, gigabytes=gigabytes)
    gone = counted(len(removed), "entry", "entries")
    freed = sum(entry.size for entry in removed) / 1e6
    Terminal(SilentProgress()).result(f"{gone} removed, {freed:.1f} MB freed\n")


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
