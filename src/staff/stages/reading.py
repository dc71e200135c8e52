"""Reading: the usable rows of a source, tokenised once into the run's folder.

A resumed run reuses what an earlier start has read.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from staff.data import kept
from staff.data.files import Source
from staff.data.prepare import Prepared, prepare
from staff.data.tokenise import Tokeniser
from staff.ledger import StageRecord
from staff.progress import Progress, SilentProgress
from staff.runs.store import RunFolder
from staff.stages.options import record_options

TOKENS = "tokens"  # in the run folder while a process works there


def read(
    config: Any,
    source: Source,
    tokenisers: Sequence[Tokeniser],
    *,
    folder: Path,
    progress: Progress | None,
    kept_as: str | None = None,
) -> Prepared:
    """Tokenise the usable rows into ``folder/tokens``; nothing else is touched.

    On any error nothing is left. kept_as: take what an earlier start kept under that key.
    """
    tokens = folder / TOKENS
    fault = None
    if kept_as:
        prepared, fault = kept.take(tokens, kept_as)
        if prepared:
            with (progress or SilentProgress()).stage("read", total=prepared.rows_read) as stage:
                stage.note("rows and tokens of an earlier run are reused")
                stage.advance(prepared.rows_read)
            return prepared
    shutil.rmtree(tokens, ignore_errors=True)
    if fault:
        with (progress or SilentProgress()).stage("read") as stage:
            stage.note(f"the tokens of an earlier run {fault}: the data are read again")
    try:
        return prepare(
            source,
            record_options(config),
            tokenisers,
            on_bad_row=config.on_bad_row,
            on_duplicate=config.on_duplicate,
            out=tokens,
            progress=progress,
        )
    except BaseException:
        shutil.rmtree(tokens, ignore_errors=True)
        raise


def reading_key(
    config: Any, source: Source, data_hash: str, tokenisers: Sequence[Tokeniser]
) -> str:
    """What the rows that are read with these settings are kept as."""
    return kept.made_from(
        data_hash,
        source.kind,
        record_options(config),
        config.on_bad_row,
        config.on_duplicate,
        tokenisers,
    )


def read_once(
    config: Any,
    source: Source,
    tokenisers: Sequence[Tokeniser],
    *,
    data_hash: str,
    folder: Path,
    afresh: bool,
    progress: Progress | None,
) -> tuple[Prepared, str]:
    """`read`, or what an earlier start kept; and what it is to be kept as.

    data_hash: of the source, before it is read. afresh: nothing of an earlier start is taken.
    Raises what `read` does, and DataError if the source changed meanwhile.
    """
    key = reading_key(config, source, data_hash, tokenisers)
    kept_as = None if afresh else key
    prepared = read(config, source, tokenisers, folder=folder, progress=progress, kept_as=kept_as)
    source.check_unchanged(data_hash)
    return prepared, key


def note_read(record: StageRecord, prepared: Prepared) -> None:
    """What reading took goes into `record`; of rows that an earlier start read, its cost then."""
    record.rows = prepared.rows_read
    record.tokens = prepared.tokens[0] if prepared.tokens else 0
    if prepared.kept:
        record.reused, record.seconds = True, prepared.seconds


def keep_read(prepared: Prepared, folder: RunFolder, key: str, *, tokens: Path) -> None:
    """Put the rejected rows' file in its place; keep what was read, in `tokens`, for the next."""
    kept.put_rejected(prepared, folder.rejected)
    kept.keep(prepared, tokens / TOKENS, key)


@contextmanager
def tokens_of(folder: Path) -> Iterator[None]:
    """A run at work in `folder`: its tokens go when it is done, and stay if it is to go on."""
    tokens = folder / TOKENS
    try:
        yield
    except BaseException:
        if not kept.marked(tokens):
            shutil.rmtree(tokens, ignore_errors=True)
        raise
    shutil.rmtree(tokens, ignore_errors=True)
