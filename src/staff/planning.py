"""What a run would do, for ``--dry-run``: rows and tokens a stage, files. Loads no weights."""

import tempfile
from pathlib import Path
from typing import Any

from staff import stages
from staff.data.files import Source, open_source
from staff.data.prepare import Prepared
from staff.pipeline import requested_totals
from staff.progress import Progress
from staff.runs.config import SelectConfig
from staff.runs.manifest import read_manifest
from staff.runs.store import RunFolder


def plan(config: SelectConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Read and tokenise the data, and count; nothing stays on disk.

    Returns row counts, ``stages`` (name, rows, tokens, reused; what is to be verified is an upper
    bound in rows, and in tokens an estimate from the mean length) and ``files``.
    """
    folder = RunFolder(config.folder)
    if config.scores:
        earlier = read_manifest(config.scores)
        settings = config.inherit(earlier["config"])
        usable = int(earlier["data"]["rows_usable"])
        requested_totals(settings, usable)  # a total above n is told now
        return {
            "usable rows": usable,
            "stages": [{"name": "select", "rows": usable}],
            "files": _files(settings, folder),
        }
    models = () if config.method == "random" else (str(config.small), str(config.target))
    source = open_source(str(config.data))
    with tempfile.TemporaryDirectory(prefix="staff-") as scratch:
        prepared = stages.read(
            config,
            source,
            stages.tokenisers(models, max_length=config.max_length),
            folder=Path(scratch),
            progress=progress,
        )
    requested_totals(config, prepared.usable)
    return {
        "rows": prepared.rows_read,
        "usable rows": prepared.usable,
        "rejected": prepared.rejected,
        "truncated": prepared.truncated,
        "duplicates": prepared.duplicates,
        "stages": _stages(config, prepared, kept=_kept(folder, source)),
        "files": _files(config, folder),
    }


def _kept(folder: RunFolder, source: Source) -> bool:
    """Whether a finished run of the same data is there; `checks` has held its settings to ours."""
    if not folder.finished:
        return False
    return read_manifest(folder.path)["data"]["sha256"] == source.content_hash()


def _stages(config: SelectConfig, prepared: Prepared, *, kept: bool) -> list[dict[str, Any]]:
    usable, kept = prepared.usable, kept and not config.overwrite
    if config.method == "random":
        return [{"name": "read", "rows": prepared.rows_read}, {"name": "select", "rows": usable}]
    tokens, target_tokens = prepared.tokens
    listed: list[dict[str, Any]] = [{"name": "read", "rows": prepared.rows_read, "tokens": tokens}]
    if config.adapter is None and not config.skip_finetune:
        listed.append(
            {
                "name": f"fine-tune small, {config.epochs} epochs",
                "rows": usable,
                "tokens": config.epochs * tokens,
                "reused": kept,
            }
        )
    most = min(usable, config.regions * config.verify_per_region)
    verify = round(most * target_tokens / usable)
    return [
        *listed,
        {"name": "score small", "rows": usable, "tokens": tokens, "reused": kept},
        {"name": "verify on target, at most", "rows": most, "tokens": verify},
        {"name": "select", "rows": usable},
    ]


def _files(config: SelectConfig, folder: RunFolder) -> list[str]:
    """Everything the run would leave."""
    files = [folder.config]
    if not config.scores and config.method == "staff":
        if config.adapter is None and not config.skip_finetune:
            files.append(folder.adapter)
        files += [folder.scores_small, folder.scores_target]
    files.append(folder.selection)
    files += [folder.coreset(name, config.format) for name in config.coreset_names]
    return [str(path) for path in [*files, folder.report, folder.manifest]]
