"""Read a source once and store its usable rows, tokenised, on disk.

file -> RawRecord -> Example -> TokenisedExample -> TokenStore, a few hundred rows at a time.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Literal

import numpy as np

from staff.data.ahead import in_order
from staff.data.columns import refuse_left_out, resolve_options
from staff.data.files import HEAD_ROWS, Source
from staff.data.occurrences import Occurrences
from staff.data.raw import RawRecord
from staff.data.records import CHAT, RecordOptions, content_id, to_example
from staff.data.store import TokenStore
from staff.data.tokenise import Tokeniser
from staff.data.writers import json_text, replacing
from staff.errors import BadRow, DataError
from staff.ids import Ids
from staff.progress import Progress, SilentProgress
from staff.rng import keys_of_ids
from staff.types import Example, Ints, TokenisedExample, read_only
from staff.visible import shortened
from staff.words import counted

CHUNK_ROWS = 512
SHOWN_BAD_ROWS = 5
REJECTED = "rejected.jsonl"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What became of a source.

    stores: one per tokeniser, in their order (the same object where tokenisers agree).
    rows_read = usable + rejected. truncated: usable rows that lost their tail to the maximum
    length, for any tokeniser. duplicates: rows that could be used but whose content occurred
    before; they are among the usable ones or, where they are skipped, among the rejected.
    tokens: per tokeniser, of all usable rows. options: as found out, format included.
    ids and rows int64 [usable]: the usable rows' ids and positions in the input. sources
    [usable]: what the source column holds there; None without one. seconds: that it took; kept:
    whether an earlier start did it (`data.kept`).
    """

    stores: tuple[TokenStore, ...]
    ids: Sequence[str]
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
    seconds: float = 0.0
    kept: bool = False

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
    bad = _BadRows(source)
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
    on_duplicate: Literal["keep", "skip"] = "keep",
    out: Path,
    progress: Progress | None = None,
) -> Prepared:
    """Tokenise every usable row for every tokeniser (none will do) into stores under `out`.

    A row that any tokeniser cannot use is bad for all. With "error", bad rows end in one
    `DataError` that shows the first five and counts all; with "skip" they go to
    ``out/rejected.jsonl`` (row, line, reason, record), and so do rows with the content of an
    earlier one if `on_duplicate` is "skip". Nothing else is dropped.

    Also raises `DataError` for a repeated id in the id column, when no row is usable, and
    whatever `check_columns` raises. On any error no store is left behind.
    """
    start = time.monotonic()
    given, options = options, check_columns(source, options)
    distinct, fingerprints = _distinct(tokenisers, options)
    several = len(distinct) > 1
    paths = {p: f"tokens-{n}.arrow" if several else "tokens.arrow" for n, p in enumerate(distinct)}
    bad = _BadRows(source)
    ids = _Ids(source, options)
    rows_read = truncated = kept = 0
    spelt = _Spelt(next(iter(distinct.values()), None))  # all are of one family: one will do
    usable_ids: list[Ids] = []
    usable_rows: list[Ints] = []
    usable_sources: list[str | None] = []
    known: set[str] = set()  # columns of the first rows
    names: dict[str | None, str | None] = {}  # one text a source, however many rows it has
    with ExitStack() as stack:
        expected = source.estimated_rows()
        stage = stack.enter_context(
            (progress or SilentProgress()).stage("read", total=expected, exact=False)
        )
        if source.note:
            stage.note(source.note)
        if "skip" in (on_bad_row, on_duplicate):
            bad.file = stack.enter_context(replacing(out / REJECTED)).open("w", encoding="utf-8")
            stack.enter_context(bad.file)
        writers = [stack.enter_context(TokenStore.write(out / path)) for path in paths.values()]
        chunks = (_examples(chunk, options, ids) for chunk in _chunks(source.records()))
        encode = partial(_encode, list(distinct.values()))
        for chunk, encoded in stack.enter_context(closing(in_order(encode, chunks))):
            # `check_columns` saw the first rows only.
            records = [raw.record for raw in chunk.raws if raw.record is not None]
            known = known or set().union(*records[:HEAD_ROWS])
            refuse_left_out(records, given, options, name=source.name, known=known)
            usable = _usable(chunk, encoded, list(distinct.values()), bad, on_duplicate)
            for n, writer in enumerate(writers):
                writer.append([u.row for u in usable], [u.tokens[n] for u in usable])
            if not writers:
                usable_ids.append(Ids.of(u.id for u in usable))
            usable_rows.append(np.array([u.row for u in usable], np.int64))
            if options.source_column:
                usable_sources += [names.setdefault(u.source, u.source) for u in usable]
            spelt.look(chunk.examples[u.row][0] for u in usable)
            rows_read += len(chunk.raws)
            truncated += sum(any(t.truncated for t in u.tokens) for u in usable)
            kept += sum(u.duplicate for u in usable)
            stage.advance(len(chunk.raws))
        if spelt.rows:
            stage.note(spelt.text())
        if bad.count and (on_bad_row == "error" or bad.count == rows_read):
            raise bad.error(rows_read, skippable=bad.count < rows_read)
    rejected = bad.count + bad.duplicates
    if not rejected:
        (out / REJECTED).unlink(missing_ok=True)
    stores = {fingerprint: TokenStore.open(out / path) for fingerprint, path in paths.items()}
    tokens = {fingerprint: w.tokens for fingerprint, w in zip(distinct, writers, strict=True)}
    return Prepared(
        stores=tuple(stores[fingerprint] for fingerprint in fingerprints),
        ids=stores[fingerprints[0]].ids if fingerprints else Ids.joined(usable_ids),
        rows=read_only(np.concatenate([np.empty(0, np.int64), *usable_rows])),
        rows_read=rows_read,
        usable=rows_read - rejected,
        rejected=rejected,
        truncated=truncated,
        duplicates=kept + bad.duplicates,
        tokens=tuple(tokens[fingerprint] for fingerprint in fingerprints),
        options=options,
        rejected_path=out / REJECTED if rejected else None,
        sources=tuple(usable_sources) if options.source_column else None,
        seconds=time.monotonic() - start,
    )


def _distinct(
    tokenisers: Sequence[Tokeniser], options: RecordOptions
) -> tuple[dict[str, Tokeniser], list[str]]:
    """One tokeniser of those that agree, by fingerprint; the fingerprint of each that was given."""
    chats = options.format in CHAT
    fingerprints = [t.fingerprint if chats else t.plain_fingerprint for t in tokenisers]
    return dict(zip(fingerprints, tokenisers, strict=True)), fingerprints


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Some rows in the order of the input.

    examples: of those that make one, by row, with whether its content occurred before.
    reasons: why the others are bad, by row.
    """

    raws: list[RawRecord]
    examples: dict[int, tuple[Example, bool]]
    reasons: dict[int, str]


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


def _examples(raws: list[RawRecord], options: RecordOptions, ids: "_Ids") -> _Chunk:
    """What can be told of some rows without a tokeniser."""
    reasons: dict[int, str] = {}
    made: list[tuple[RawRecord, Example]] = []
    for raw in raws:
        if raw.record is None:
            reasons[raw.row] = raw.problem or "cannot be read"
            continue
        try:
            made.append((raw, to_example(raw.record, options)))
        except BadRow as fault:
            reasons[raw.row] = str(fault)
    named = zip(made, ids.give(made), strict=True)
    return _Chunk(raws, {raw.row: given for (raw, _), given in named}, reasons)


def _encode(tokenisers: list[Tokeniser], chunk: _Chunk) -> list[list[TokenisedExample | BadRow]]:
    """Of every tokeniser, what it makes of each of the chunk's examples."""
    examples = [example for example, _ in chunk.examples.values()]
    return [tokeniser.encode_batch(examples) for tokeniser in tokenisers]


def _usable(
    chunk: _Chunk,
    encoded: list[list[TokenisedExample | BadRow]],
    tokenisers: list[Tokeniser],
    bad: "_BadRows",
    on_duplicate: Literal["keep", "skip"],
) -> list[_Usable]:
    """Sort one chunk into usable rows and others, both in the order of the input."""
    reasons, repeats = dict(chunk.reasons), set()
    usable = []
    for n, (row, (example, duplicate)) in enumerate(chunk.examples.items()):
        tokens = []
        for tokeniser, results in zip(tokenisers, encoded, strict=True):
            result = results[n]
            if not isinstance(result, BadRow):
                tokens.append(result)
            elif row not in reasons:
                which = f" (tokenizer of {tokeniser.source})" if len(tokenisers) > 1 else ""
                reasons[row] = f"{result}{which}"
        if row in reasons:
            continue
        if duplicate and on_duplicate == "skip":
            repeats.add(row)
        else:
            usable.append(_Usable(row, example.id, example.source, duplicate, tuple(tokens)))
    for raw in chunk.raws:
        if raw.row in reasons:
            bad.add(raw, reasons[raw.row])
        elif raw.row in repeats:
            bad.add_duplicate(raw)
    return usable


class _Ids:
    """Makes ids unique. Remembers a few bytes a row, never its text."""

    def __init__(self, source: Source, options: RecordOptions) -> None:
        self.source, self.options = source, options
        self._contents, self._given = Occurrences(), Occurrences()

    def give(self, made: list[tuple[RawRecord, Example]]) -> list[tuple[Example, bool]]:
        """Each example under its final id, and whether its content occurred before.

        Raises `DataError` for an id of the id column that is there twice.
        """
        if self.options.id_column:
            self._refuse_repeated(made)
        contents = [content_id(e) if self.options.id_column else e.id for _, e in made]
        before = self._contents.count(np.array([int(c, 16) for c in contents], np.uint64)).tolist()
        if self.options.id_column:
            return [(e, times > 0) for (_, e), times in zip(made, before, strict=True)]
        return [
            (replace(e, id=f"{e.id}-{times}"), times > 0)
            for (_, e), times in zip(made, before, strict=True)
        ]

    def _refuse_repeated(self, made: list[tuple[RawRecord, Example]]) -> None:
        for at in np.flatnonzero(self._given.count(keys_of_ids(e.id for _, e in made))).tolist():
            raw, example = made[at]
            if first := self._first_place(example.id, raw.row):  # or two ids of one hash
                raise DataError(
                    f"{self.source.name}: {first} and {raw.place} have the same id "
                    f"{shortened(repr(example.id))} in column {self.options.id_column!r}. Make the "
                    "ids unique, or leave --id-column out."
                )

    def _first_place(self, name: str, before: int) -> str | None:
        """Where an id is first given; the rows are read again, as far as row `before`."""
        for raw in self.source.records():
            if raw.row >= before:
                return None
            try:
                if raw.record and to_example(raw.record, self.options).id == name:
                    return raw.place
            except BadRow:
                continue
        return None


class _Spelt:
    """Counts rows that spell special tokens out, as text made by a chat template does."""

    def __init__(self, tokeniser: Tokeniser | None) -> None:
        self._tokeniser = tokeniser
        self._first: str | None = None
        self.rows = 0

    def look(self, examples: Iterable[Example]) -> None:
        """Take in some rows."""
        if self._tokeniser is None:
            return
        for token in filter(None, map(self._tokeniser.spelt_special, examples)):
            self._first = self._first or token
            self.rows += 1

    def text(self) -> str:
        """What is noted of them."""
        rows = counted(self.rows, "row spells", "rows spell")
        return (
            f"{rows} special tokens out ({self._first}): they are text in this run, but tokens for "
            "most trainers. If a chat template made them, give the conversations instead"
        )


class _BadRows:
    """Counts bad rows, keeps the first few for the message, writes all to `file` if it is set.

    Duplicates that are skipped go to the same file, and are counted apart: they are no fault.
    """

    def __init__(self, source: Source) -> None:
        self.name = source.name
        self.count = self.duplicates = 0
        self.file: IO[str] | None = None
        self._lines = source.kind == "jsonl"
        self._first: RawRecord | None = None
        self._shown: list[str] = []

    def add(self, raw: RawRecord, reason: str) -> None:
        """Take in one bad row."""
        self.count += 1
        self._first = self._first or raw
        if len(self._shown) < SHOWN_BAD_ROWS:
            self._shown.append(f"  {self.name}, {raw.place}: {reason}")
        self._write(raw, reason)

    def add_duplicate(self, raw: RawRecord) -> None:
        """Take in a row with the content of an earlier one."""
        self.duplicates += 1
        self._write(raw, "has the contents of an earlier row")

    def _write(self, raw: RawRecord, reason: str) -> None:
        if self.file:
            record = raw.record if raw.record is not None else raw.raw
            entry = {"row": raw.row, "line": raw.line, "reason": reason, "record": record}
            entry = {"file": raw.file, **entry} if raw.file else entry
            self.file.write(json_text(entry) + "\n")

    def error(self, rows: int, *, skippable: bool) -> DataError:
        """The one error for all of them."""
        lines = [f"{self.name}: {self.count} of {rows} rows cannot be used"]
        if self.count > len(self._shown):
            lines[0] += f"; the first {len(self._shown)}"
        lines[0] += ":"
        lines += self._shown
        if self._lines and self._starts_array(rows):
            lines.append("The file seems to be one JSON array: let its name end in .json.")
        elif skippable:
            lines.append("Fix them, or leave them out with --on-bad-row skip.")
        else:
            lines.append(
                "No usable row is left. Check the format, the columns and the maximum length."
            )
        return DataError("\n".join(lines))

    def _starts_array(self, rows: int) -> bool:
        """Whether the first row is the start of an array, or all of it."""
        first = self._first
        if first is None or first.row > 0 or not (first.raw or "").lstrip().startswith("["):
            return False
        return rows == 1 or "broken JSON" in (first.problem or "")
