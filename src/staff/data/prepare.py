"""Read a source once and leave its usable rows, tokenised, on disk.

file -> RawRecord -> Example -> TokenisedExample -> TokenStore, a few hundred rows at a time.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Literal

import numpy as np

from staff.data.columns import resolve_options
from staff.data.files import Source
from staff.data.raw import RawRecord
from staff.data.records import RecordOptions, content_id, to_example
from staff.data.store import TokenStore
from staff.data.tokenise import Tokeniser
from staff.data.writers import json_text, replacing
from staff.errors import BadRow, DataError
from staff.progress import Progress, SilentProgress
from staff.types import Example, Ints, TokenisedExample, read_only

CHUNK_ROWS = 512
SHOWN_BAD_ROWS = 5
REJECTED = "rejected.jsonl"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What became of a source.

    stores: one per tokeniser, in their order (the same object where tokenisers agree).
    rows_read = usable + rejected. truncated: usable rows that lost their tail to the maximum
    length, for any tokeniser. duplicates: usable rows whose content occurred before.
    tokens: per tokeniser, of all usable rows. options: as found out, format included.
    ids and rows int64 [usable]: the usable rows' ids and positions in the input. sources
    [usable]: what the source column holds there; None without one.
    """

    stores: tuple[TokenStore, ...]
    ids: tuple[str, ...]
    rows: Ints
    rows_read: int
    usable: int
    rejected: int
    truncated: int
    duplicates: int
    tokens: tuple[int, ...]
    options: RecordOptions
    rejected_path: Path | None
    sources: tuple[str | None, ...] | None = None

    @property
    def format(self) -> str:
        """The record format."""
        return self.options.format or ""


def check_columns(source: Source, options: RecordOptions) -> RecordOptions:
    """Read the first rows only and find the format and columns; needs no tokenizer, no torch.

    Raises `DataError` (no rows, none that can be parsed, wrong columns) or `ConfigError`.
    """
    head = [row.record for row in source.head() if row.record is not None]
    if head:
        return resolve_options(head, options, name=source.name)
    bad = _BadRows(source.name)
    for row in source.records():
        bad.add(row, row.problem or "")
    if bad.count:
        raise bad.error(bad.count, skippable=False)
    raise DataError(f"{source.name} holds no rows. Give a file with at least one.")


def prepare(
    source: Source,
    options: RecordOptions,
    tokenisers: Sequence[Tokeniser],
    *,
    on_bad_row: Literal["error", "skip"] = "error",
    out: Path,
    progress: Progress | None = None,
) -> Prepared:
    """Tokenise every usable row for every tokeniser (none will do) into stores under `out`.

    A row that any tokeniser cannot use is bad for all. With "error", bad rows end in one
    `DataError` that shows the first five and counts all; with "skip" they go to
    ``out/rejected.jsonl`` (row, line, reason, record). Nothing else is dropped.

    Also raises `DataError` for a repeated id in the id column, when no row is usable, and
    whatever `check_columns` raises. On any error no store is left behind.
    """
    options = check_columns(source, options)
    prints = [tokeniser.fingerprint for tokeniser in tokenisers]
    distinct = dict(zip(prints, tokenisers, strict=True))  # one store for tokenisers that agree
    several = len(distinct) > 1
    paths = {p: f"tokens-{n}.arrow" if several else "tokens.arrow" for n, p in enumerate(distinct)}
    bad = _BadRows(source.name)
    ids = _Ids(source.name, options.id_column)
    rows_read = truncated = duplicates = 0
    usable_ids: list[str] = []
    usable_rows: list[int] = []
    usable_sources: list[str | None] = []
    names: dict[str | None, str | None] = {}  # one text a source, however many rows it has
    with ExitStack() as stack:
        expected = source.estimated_rows()
        stage = stack.enter_context(
            (progress or SilentProgress()).stage("read", total=expected, exact=False)
        )
        if on_bad_row == "skip":
            bad.file = stack.enter_context(replacing(out / REJECTED)).open("w", encoding="utf-8")
            stack.enter_context(bad.file)
        writers = [stack.enter_context(TokenStore.write(out / path)) for path in paths.values()]
        for chunk in _chunks(source.records()):
            usable = _usable(chunk, options, list(distinct.values()), ids, bad)
            for n, writer in enumerate(writers):
                writer.append([u.row for u in usable], [u.tokens[n] for u in usable])
            usable_ids += [u.id for u in usable]
            usable_rows += [u.row for u in usable]
            if options.source_column:
                usable_sources += [names.setdefault(u.source, u.source) for u in usable]
            rows_read += len(chunk)
            truncated += sum(any(t.truncated for t in u.tokens) for u in usable)
            duplicates += sum(u.duplicate for u in usable)
            stage.advance(len(chunk))
        if bad.count and (on_bad_row == "error" or bad.count == rows_read):
            raise bad.error(rows_read, skippable=bad.count < rows_read)
    if not bad.count:
        (out / REJECTED).unlink(missing_ok=True)
    stores = {print_: TokenStore.open(out / path) for print_, path in paths.items()}
    tokens = {print_: w.tokens for print_, w in zip(distinct, writers, strict=True)}
    return Prepared(
        stores=tuple(stores[print_] for print_ in prints),
        ids=tuple(usable_ids),
        rows=read_only(np.array(usable_rows, np.int64)),
        rows_read=rows_read,
        usable=rows_read - bad.count,
        rejected=bad.count,
        truncated=truncated,
        duplicates=duplicates,
        tokens=tuple(tokens[print_] for print_ in prints),
        options=options,
        rejected_path=out / REJECTED if bad.count else None,
        sources=tuple(usable_sources) if options.source_column else None,
    )


@dataclass(frozen=True, slots=True)
class _Usable:
    """A row that every tokeniser can use; `tokens` has one entry a tokeniser."""

    row: int
    id: str
    source: str | None
    duplicate: bool
    tokens: tuple[TokenisedExample, ...]


def _chunks(records: Iterator[RawRecord]) -> Iterator[list[RawRecord]]:
    while chunk := list(islice(records, CHUNK_ROWS)):
        yield chunk


def _usable(
    chunk: list[RawRecord],
    options: RecordOptions,
    tokenisers: list[Tokeniser],
    ids: "_Ids",
    bad: "_BadRows",
) -> list[_Usable]:
    """Sort one chunk into usable rows and bad ones, both in the order of the input."""
    reasons: dict[int, str] = {}
    examples: dict[int, tuple[Example, bool]] = {}
    for raw in chunk:
        if raw.record is None:
            reasons[raw.row] = raw.problem or "cannot be read"
            continue
        try:
            examples[raw.row] = ids.give(to_example(raw.record, options), raw.place)
        except BadRow as fault:
            reasons[raw.row] = str(fault)
    encoded = [t.encode_batch([example for example, _ in examples.values()]) for t in tokenisers]
    usable = []
    for n, (row, (example, duplicate)) in enumerate(examples.items()):
        tokens = []
        for tokeniser, results in zip(tokenisers, encoded, strict=True):
            result = results[n]
            if not isinstance(result, BadRow):
                tokens.append(result)
            elif row not in reasons:
                which = f" (tokenizer of {tokeniser.source})" if len(tokenisers) > 1 else ""
                reasons[row] = f"{result}{which}"
        if row not in reasons:
            usable.append(_Usable(row, example.id, example.source, duplicate, tuple(tokens)))
    for raw in chunk:
        if raw.row in reasons:
            bad.add(raw, reasons[raw.row])
    return usable


class _Ids:
    """Makes ids unique. Remembers a few bytes a row, never its text."""

    def __init__(self, name: str, column: str | None) -> None:
        self.name = name
        self.column = column
        self._seen: set[int] = set()
        self._repeats: dict[int, int] = {}
        self._given: dict[int, str] = {}

    def give(self, example: Example, place: str) -> tuple[Example, bool]:
        """The example under its final id, and whether its content occurred before."""
        content = int(content_id(example) if self.column else example.id, 16)
        repeated = content in self._seen
        self._seen.add(content)
        if not self.column:
            if repeated:
                self._repeats[content] = self._repeats.get(content, 0) + 1
            occurrence = self._repeats.get(content, 0)
            return replace(example, id=f"{example.id}-{occurrence}"), repeated
        digest = hashlib.blake2b(example.id.encode(), digest_size=12).digest()
        first = self._given.setdefault(int.from_bytes(digest, "little"), place)
        if first != place:
            raise DataError(
                f"{self.name}: {first} and {place} have the same id {example.id!r} in column "
                f"{self.column!r}. Make the ids unique, or leave --id-column out."
            )
        return example, repeated


class _BadRows:
    """Counts bad rows, keeps the first few for the message, writes all to `file` if it is set."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.file: IO[str] | None = None
        self._shown: list[str] = []

    def add(self, raw: RawRecord, reason: str) -> None:
        """Take in one bad row."""
        self.count += 1
        if len(self._shown) < SHOWN_BAD_ROWS:
            self._shown.append(f"  {self.name}, {raw.place}: {reason}")
        if self.file:
            record = raw.record if raw.record is not None else raw.raw
            entry = {"row": raw.row, "line": raw.line, "reason": reason, "record": record}
            self.file.write(json_text(entry) + "\n")

    def error(self, rows: int, *, skippable: bool) -> DataError:
        """The one error for all of them."""
        lines = [f"{self.name}: {self.count} of {rows} rows cannot be used"]
        if self.count > len(self._shown):
            lines[0] += f"; the first {len(self._shown)}"
        lines[0] += ":"
        lines += self._shown
        if skippable:
            lines.append(
                f"Mend them, or go on without them: --on-bad-row skip (they go to {REJECTED})."
            )
        else:
            lines.append("No row is left. Check the format, the columns and the maximum length.")
        return DataError("\n".join(lines))
