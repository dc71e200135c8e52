"""What a run would do, for ``--dry-run``: rows and tokens per stage, files. Loads no weights."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from staff.asked import check_asked, counting_models, requested_sizes
from staff.data.columns import described
from staff.data.files import Source, open_source
from staff.data.prepare import Prepared
from staff.foreseen import too_many_regions, warnings_of
from staff.methods import wanted_by
from staff.progress import Progress
from staff.runs.config import EvaluateConfig, FinetuneConfig, ScoreConfig, SelectConfig
from staff.runs.manifest import read_manifest
from staff.runs.store import RunFolder
from staff.selectors.compose import Size, check_wishes
from staff.selectors.regions import below_cut, regions_for
from staff.selectors.rounds import not_verified
from staff.stages import reading
from staff.stages.draws import count_drawn
from staff.stages.facts import tokenisers_of
from staff.stages.options import trust_of
from staff.stored import check_source, read_stored, source_of
from staff.wishes import read_lists, read_wishes
from staff.words import counted


@contextmanager
def tokenised(
    config: Any, source: Source, models: Sequence[str], progress: Progress | None
) -> Iterator[Prepared]:
    """The usable rows, tokenised for these models; they are gone after the block."""
    with tempfile.TemporaryDirectory(prefix="staff-") as scratch:
        tokenisers = tokenisers_of(
            models, max_length=config.max_length, weights=False, trust=trust_of(config)
        )
        yield reading.read(config, source, tokenisers, folder=Path(scratch), progress=progress)


def plan(config: SelectConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Read and tokenise the data, and count; nothing stays on disk.

    Returns row counts, ``stages`` (name, rows, tokens, reused; what is to be verified is an upper
    bound in rows, and in tokens an estimate from the mean length), ``files`` and ``warnings``.

    Raises what the run would before its first stage: sizes, lists or quotas that the rows do not
    allow, stored scores that its method lacks.
    """
    folder = RunFolder(config.folder)
    if config.scores:
        earlier = read_manifest(config.scores)
        settings = config.inherit(earlier["config"])
        lists, source = read_lists(settings), source_of(earlier)
        check_source(source, earlier, config.scores)
        rows, _ = read_stored(settings, features=False)
        usable = len(rows.ids)
        sizes = requested_sizes(settings, usable, rows.lengths)
        check_wishes(sizes, read_wishes(settings, lists, source, rows.ids, rows.rows, {}))
        return {
            "usable rows": usable,
            "stages": [{"name": "select", "kind": "select", "rows": usable}],
            "files": _files(settings, folder),
            "warnings": too_many_regions(settings, usable),
        }
    source = open_source(str(config.data))
    with tokenised(config, source, counting_models(config), progress) as prepared:
        _, free = asked_of(config, source, prepared)
        return {
            "read as": described(prepared.options),
            **counts(prepared),
            "stages": stages_of(config, prepared, free=free, kept=_kept(folder, source)),
            "files": _files(config, folder, rejected=prepared.rejected),
            "warnings": warnings_of(config, prepared),
        }


def plan_one_stage(
    config: ScoreConfig | FinetuneConfig | EvaluateConfig, *, progress: Progress | None = None
) -> dict[str, Any]:
    """The same for score, finetune and evaluate, which work on one file with one model."""
    source = open_source(str(config.data))
    with tokenised(config, source, (str(config.model),), progress) as prepared:
        rows, tokens = prepared.usable, prepared.tokens[0]
    if isinstance(config, FinetuneConfig):
        steps = config.max_steps or config.epochs * -(-rows // config.batch_size)
        # The last step of an epoch has fewer rows.
        every, rest = divmod(steps, -(-rows // config.batch_size))
        epochs = every + rest * config.batch_size / rows
        work = [
            {
                "name": f"fine-tune, {counted(steps, 'step')}",
                "rows": rows,
                "tokens": round(epochs * tokens),
            }
        ]
        files = [str(config.out)]
    elif isinstance(config, ScoreConfig):
        folder = RunFolder(str(config.out))
        work = [{"name": "score", "rows": rows, "tokens": tokens}]
        files = [str(path) for path in (folder.config, folder.scores_small, folder.manifest)]
    else:
        texts = [name for name in config.metrics if name != "loss"]
        work = (
            [{"name": "loss", "rows": rows, "tokens": tokens}] if "loss" in config.metrics else []
        )
        work += [{"name": f"generate, for {', '.join(texts)}", "rows": rows}] if texts else []
        out = Path(config.out) if config.out else None
        files = [str(out / name) for name in ("items.parquet", "metrics.json")] if out else []
    read = {"name": "read", "rows": prepared.rows_read, "tokens": tokens}
    return {**counts(prepared), "stages": [read, *work], "files": files}


def counts(prepared: Prepared) -> dict[str, int]:
    """What became of the rows."""
    return {
        "rows": prepared.rows_read,
        "usable rows": prepared.usable,
        "rejected": prepared.rejected,
        "truncated": prepared.truncated,
        "duplicates": prepared.duplicates,
    }


def _kept(folder: RunFolder, source: Source) -> bool:
    """Whether a finished run of the same data is there; `checks` has held its settings to ours."""
    if not folder.finished:
        return False
    return read_manifest(folder.path)["data"]["sha256"] == source.content_hash()


def asked_of(
    config: SelectConfig, source: Source, prepared: Prepared
) -> tuple[dict[str, Size], int]:
    """The sizes asked for, and of how many rows a method has the choice.

    Raises what the run would once its rows are read: ConfigError for sizes, lists and caps that
    cannot be, DataError for a quota column that is not there or too few rows for `--score-on`.
    """
    lengths = prepared.stores[-1].lengths if prepared.stores else None
    sizes = requested_sizes(config, prepared.usable, lengths)
    lists = read_lists(config)
    wishes = read_wishes(config, lists, source, prepared.ids, prepared.rows, {})
    check_asked(config, sizes, wishes, usable=prepared.usable)
    return sizes, int(np.count_nonzero(wishes.free))


def stages_of(
    config: SelectConfig, prepared: Prepared, *, free: int, kept: bool = False
) -> list[dict[str, Any]]:
    """The stages of a selection: name, kind, rows, tokens, reused.

    free: rows there is a choice of (`asked_of`, which refuses what cannot be).
    """
    usable, kept = prepared.usable, kept and not config.overwrite
    listed: list[dict[str, Any]] = [{"name": "read", "kind": "read", "rows": prepared.rows_read}]
    if prepared.tokens:
        listed[0]["tokens"] = prepared.tokens[0]
    wanted = wanted_by(config)
    if wanted:
        tokens = prepared.tokens[0]
        small = {"rows": usable, "tokens": tokens, "reused": kept}
        if config.adapter is None and not config.skip_finetune:
            rows = count_drawn(config.finetune_on, usable)
            tuned = round(config.epochs * tokens * rows / usable)
            name = f"fine-tune small, {passes(config.epochs)}"
            tuning = {"name": name, "kind": "tune small", "rows": rows, "tokens": tuned}
            listed.append(small | tuning)
        scored = count_drawn(config.score_on, usable)
        part = {"rows": scored, "tokens": round(tokens * scored / usable)}
        listed.append({"name": "score small", "kind": "score small"} | small | part)
        if "unconditioned" in wanted:
            alone = {"tokens": usable + int(prepared.stores[0].response_lengths.sum())}
            listed.append({"name": "score responses alone", "kind": "score alone"} | small | alone)
    if "verify" in wanted and (most := most_verified(config, free)):
        verify = round(most * prepared.tokens[-1] / usable)
        name = "verify on target, at most"
        listed.append({"name": name, "kind": "verify", "rows": most, "tokens": verify})
        if config.scores_untuned:
            name, again = "score small untuned, at most", round(most * prepared.tokens[0] / usable)
            stage = {"name": name, "kind": "score untuned", "rows": most, "tokens": again}
            listed.append(stage)
    return [*listed, {"name": "select", "kind": "select", "rows": usable}]


def most_verified(config: SelectConfig, free: int) -> int:
    """Most rows the target scores: b_v of each region that can be large enough, or the cap."""
    pool, b_v = below_cut(free, config.cut), config.verify_per_region
    large = min(regions_for(config.regions, pool), pool // (not_verified(b_v) + 1))
    if isinstance(b_v, str):
        return min(config.verify_cap, pool) if large else 0
    return large * b_v


def passes(epochs: int) -> str:
    """A number of epochs in words.

    >>> passes(1), passes(3)
    ('1 epoch', '3 epochs')
    """
    return counted(epochs, "epoch")


def _files(config: SelectConfig, folder: RunFolder, *, rejected: int = 0) -> list[str]:
    """Everything the run would leave."""
    files = [folder.config, *([folder.rejected] if rejected else [])]
    wanted = frozenset() if config.scores else wanted_by(config)
    if wanted:
        if config.adapter is None and not config.skip_finetune:
            files.append(folder.adapter)
        files.append(folder.scores_small)
        files += [folder.scores_alone] if "unconditioned" in wanted else []
        files += [folder.scores_target] if "verify" in wanted else []
        files += [folder.scores_untuned] if config.scores_untuned else []
    files.append(folder.selection)
    files += [folder.coreset(name, config.format) for name in config.coreset_names]
    return [str(path) for path in [*files, folder.report, folder.manifest]]
