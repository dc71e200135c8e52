"""The first look at every row of a coreset: what it is to a trainer, and what that cannot take."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from staff.data.columns import GIVEN
from staff.data.prepare import REJECTED, SHOWN_BAD_ROWS
from staff.data.raw import RawRecord
from staff.data.records import to_example
from staff.data.writers import json_text
from staff.errors import BadRow, DataError, RunError
from staff.exports.columns import Columns, values_of
from staff.exports.coreset import Coreset
from staff.exports.table import TURNS
from staff.exports.trainer import Kind, Trainer, given_columns, kind_of
from staff.types import Example
from staff.words import rows_of


@dataclass(slots=True)
class Survey:
    """What the first look at all rows found.

    kind: what they are. rows: how many can be written. columns: the user's own, and their types.
    rejected: lines of rejected.jsonl. cut: rows that lose turns behind their last answer. given:
    columns of what chat templates get beside messages; not_given: those of them that the trainer
    does not hand on. rich: whether messages have more than role and content.
    """

    kind: Kind
    columns: Columns
    rows: int = 0
    cut: int = 0
    given: tuple[str, ...] = ()
    not_given: tuple[str, ...] = ()
    rich: bool = False
    rejected: list[str] = field(default_factory=list)
    bad: set[int] = field(default_factory=set)


def survey(coreset: Coreset, trainer: Trainer, *, on_bad_row: str) -> Survey:
    """Look at every row, and write nothing.

    Raises:
        DataError: rows that cannot be used, and not ``on_bad_row="skip"``; or none is left.
        RunError: there are more or fewer rows than the manifest says.
    """
    last_only = trainer.splits
    found = Survey(kind_of(coreset, last_only=False), Columns(coreset.options, trainer.taken))
    shown: list[str] = []
    given = set[str]()
    total = 0
    for raw in coreset.records():
        total += 1
        try:
            example = _example(raw, coreset)
            row = trainer.shape(example, found.kind)
        except BadRow as reason:
            found.bad.add(raw.row)
            record = raw.record if raw.record is not None else raw.raw
            entry = {"row": raw.row, "line": raw.line, "reason": str(reason), "record": record}
            found.rejected.append(json_text(entry) + "\n")
            if len(shown) < SHOWN_BAD_ROWS:
                shown.append(f"  {raw.place}: {reason}")
            continue
        found.rows += 1
        found.cut += len(row.get("messages", ())) < len(example.messages)
        found.columns.see(raw.record or {})
        found.rich |= _is_rich(row)
        given |= {name for name, value in given_columns(example).items() if value}
        last_only = last_only and _ends_in_its_only_answer(example)
    if total != coreset.rows:
        raise RunError(
            f"{coreset.path} has {rows_of(total)} where manifest.json says {coreset.rows}: run "
            "staff select again with the same settings"
        )
    if shown and (on_bad_row == "error" or not found.rows):
        raise DataError(_rejected_text(coreset, trainer, shown, len(found.rejected)))
    found.kind = kind_of(coreset, last_only=last_only)
    found.given = tuple(name for name in GIVEN if name in given & trainer.gives)
    found.not_given = tuple(name for name in GIVEN if name in given - trainer.gives)
    found.columns.left_out.update(found.not_given)
    return found


def shaped(coreset: Coreset, trainer: Trainer, found: Survey) -> Iterator[Mapping[str, Any]]:
    """The rows that the trainer takes, as it takes them, with the user's other columns."""
    types = found.columns.types
    for raw in coreset.records():
        if raw.row not in found.bad:
            row = trainer.shape(_example(raw, coreset), found.kind)
            row = {k: v for k, v in row.items() if k not in GIVEN or k in found.given}
            yield {**row, **values_of(raw.record or {}, types)}


def _is_rich(row: Mapping[str, Any]) -> bool:
    """Whether a message in the row has more than role and content."""
    lists = [row[name] for name in TURNS if isinstance(row.get(name), list)]
    return any(message.keys() - {"role", "content"} for turns in lists for message in turns)


def _example(raw: RawRecord, coreset: Coreset) -> Example:
    if raw.record is None:
        raise BadRow(raw.problem or "cannot be read")
    return to_example(raw.record, coreset.options)


def _ends_in_its_only_answer(example: Example) -> bool:
    """Whether a conversation is a prompt and one completion."""
    roles = [message.role for message in example.messages]
    return len(roles) > 1 and roles[-1] == "assistant" and roles.count("assistant") == 1


def _rejected_text(coreset: Coreset, trainer: Trainer, shown: list[str], count: int) -> str:
    more = f"; the first {len(shown)}" if count > len(shown) else ""
    lines = [f"{coreset.path}: {count} of {coreset.rows} rows cannot be exported{more}:", *shown]
    skip = f"Leave them out with --on-bad-row skip (they go to {REJECTED})."
    if count == coreset.rows:
        skip = "No row is left."
    return "\n".join([*lines, f"{trainer.note} {skip}".strip()])
