"""What a run would do, for ``--dry-run``: rows and tokens a stage, files. Loads no weights."""

import tempfile
from pathlib import Path
from typing import Any

from staff import stages
from staff.data.files import open_source
from staff.pipeline import requested_totals
from staff.progress import Progress
from staff.runs.config import SelectConfig
from staff.runs.manifest import read_manifest
from staff.runs.store import RunFolder


def plan(config: SelectConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Read and tokenise the data, and count; nothing stays on disk.

    Returns ``rows``, ``stages`` (name, rows, tokens; the tokens to verify are an estimate from
    the mean length, an upper bound in rows) and ``files``.
    """
    folder = RunFolder(config.folder)
    if config.scores:
        earlier = read_manifest(config.scores)
        usable = int(earlier["data"]["rows_usable"])
        return {
            "rows": usable,
            "stages": [{"name": "select", "rows": usable}],
            "files": _files(config, folder, config.inherit(earlier["config"])),
        }
    models = () if config.method == "random" else (str(config.small), str(config.target))
    with tempfile.TemporaryDirectory(prefix="staff-") as scratch:
        prepared = stages.read(
            config, open_source(str(config.data)), models, folder=Path(scratch), progress=progress
        )
    requested_totals(config, prepared.usable)  # a total above n is told now
    tokens = prepared.tokens[0] if models else 0
    listed: list[dict[str, Any]] = [{"name": "read", "rows": prepared.rows_read, "tokens": tokens}]
    if models:
        if config.adapter is None and not config.skip_finetune:
            listed.append(
                {
                    "name": f"fine-tune small, {config.epochs} epochs",
                    "rows": prepared.usable,
                    "tokens": config.epochs * tokens,
                }
            )
        most = min(prepared.usable, config.regions * config.verify_per_region)
        listed += [
            {"name": "score small", "rows": prepared.usable, "tokens": tokens},
            {
                "name": "verify on target, at most",
                "rows": most,
                "tokens": round(most * prepared.tokens[1] / prepared.usable),
            },
        ]
    listed.append({"name": "select", "rows": prepared.usable})
    facts = {"usable rows": prepared.usable, "rejected": prepared.rejected}
    return {
        "rows": prepared.rows_read,
        **facts,
        "truncated": prepared.truncated,
        "duplicates": prepared.duplicates,
        "stages": listed,
        "files": _files(config, folder, config),
    }


def _files(config: SelectConfig, folder: RunFolder, settings: SelectConfig) -> list[str]:
    """Everything the run would leave."""
    files = [folder.config]
    if not settings.scores and settings.method == "staff":
        if settings.adapter is None and not settings.skip_finetune:
            files.append(folder.adapter)
        files += [folder.scores_small, folder.scores_target]
    files.append(folder.selection)
    files += [folder.coreset(name, settings.format) for name in config.coreset_names]
    return [str(path) for path in [*files, folder.manifest]]
