"""The rows that a report shows: a bounded sample of every region, read again from the data."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import escape

from staff.data.files import Source
from staff.data.records import RecordOptions, to_example
from staff.errors import BadRow
from staff.reports.bins import sample
from staff.reports.page import clipped
from staff.runs.selection_file import read_rows
from staff.runs.store import RunFolder
from staff.types import Bools, Example, Floats, Ints
from staff.visible import visible
from staff.words import counted

SHOWN = 240  # rows in all; a person looks at some, and search wants a few of each region
CUT = -1
# Texts are clipped at the first of these numbers of characters with which the page's texts,
# escaped, come to no more than TEXT_BYTES: long rows cost detail, never the page's size.
LIMITS = (500, 250, 120, 60)
TEXT_BYTES = 600_000
MAX_TURNS = 6


@dataclass(frozen=True, slots=True)
class Texts:
    """What a row says. prompt: (role, text) of every turn but the one that answers.

    The role is empty where the data has none.
    """

    prompt: tuple[tuple[str, str], ...]
    response: str


def show_rows(
    folder: RunFolder,
    manifest: Mapping[str, Any],
    table: Mapping[str, Any],
    chosen: Mapping[str, Bools],
    source: Source | None,
    *,
    scores: Floats | None,
) -> dict[str, Any]:
    """What the page says of its sampled rows: `groups` (their regions) and `rows`.

    scores: those the method goes by, float64 [n], if it goes by any.
    """
    anywhere = np.any(list(chosen.values()), axis=0)
    groups = choose_rows(table["region"], anywhere, seed=manifest["seed"])
    positions = np.concatenate(list(groups.values()))
    stored = read_rows(folder.selection, positions)
    texts: dict[int, Texts] = {}
    if source is not None:
        texts = read_texts(source, [row["row"] for row in stored], manifest["data"]["reading"])
    limit = fitting_limit(texts.values())
    rows = []
    for row, position in zip(stored, positions.tolist(), strict=True):
        said = texts.get(row["row"], Texts((), ""))
        rows.append(
            {
                "row": row["row"],
                "region": row["region"] or 0,  # null after a random selection
                "score": None if scores is None else _known(scores[position]),
                "target": row["score_target"],
                "source": clipped(row.get("source") or "", 60),
                "fates": {name: row[f"reason@{name}"] for name in chosen},
                "prompt": clip_turns(said.prompt, limit),
                "response": clipped(said.response, limit),
            }
        )
    return {"groups": list(groups), "rows": rows}


def _known(score: float) -> float | None:
    return None if np.isnan(score) else float(score)


def fitting_limit(texts: Iterable[Texts]) -> int:
    """The largest of `LIMITS` at which these texts take no more than `TEXT_BYTES`."""
    texts = list(texts)
    for limit in LIMITS[:-1]:
        parts = (
            part
            for text in texts
            for part in (*(t for _, t in clip_turns(text.prompt, limit)),
                         clipped(text.response, limit))
        )  # fmt: skip
        if sum(len(escape(visible(part)).encode()) for part in parts) <= TEXT_BYTES:
            return limit
    return LIMITS[-1]


def clip_turns(turns: Sequence[tuple[str, str]], limit: int) -> list[tuple[str, str]]:
    """As many turns as `MAX_TURNS` and `limit` characters hold, and how many there are more."""
    shown: list[tuple[str, str]] = []
    for role, text in turns[:MAX_TURNS]:
        if limit <= 0:
            break
        shown.append((role, clipped(text, limit)))
        limit -= len(text)
    more = len(turns) - len(shown)
    return [*shown, ("", f"[… {counted(more, 'more turn')}]")] if more else shown


def choose_rows(region: Ints, chosen: Bools, *, seed: int, shown: int = SHOWN) -> dict[int, Ints]:
    """Region (-1: cut) -> positions of the rows to show, in order of region; about half chosen.

    region: integers [n]. chosen: bool [n], in any coreset. Of more regions than fit, evenly
    spaced ones are shown.
    """
    groups = np.unique(region[region >= -1])  # below: no part of the selection
    groups = groups[:: -(-len(groups) * 2 // shown)]
    quota = max(shown // len(groups), 2)
    rows = {}
    for group in groups.tolist():
        members = region == group
        inside, outside = np.flatnonzero(members & chosen), np.flatnonzero(members & ~chosen)
        some = sample(inside, max(quota // 2, quota - len(outside)), seed=seed)
        rest = sample(outside, quota - len(some), seed=seed)
        rows[group] = np.sort(np.concatenate([some, rest]))
    last = {CUT: rows.pop(CUT)} if CUT in rows else {}
    return {**rows, **last}


def read_texts(source: Source, rows: Sequence[int], reading: Mapping[str, Any]) -> dict[int, Texts]:
    """Row in the file -> its texts, for these rows; one pass over the file, up to the last.

    reading: how, as the manifest's ``data.reading`` has it.
    """
    options = RecordOptions(**reading)
    return {row: _texts(example) for row, example in _examples(source, set(rows), options)}


def _examples(
    source: Source, wanted: set[int], options: RecordOptions
) -> Iterator[tuple[int, Example]]:
    last = max(wanted, default=-1)
    for raw in source.records():
        if raw.row in wanted and raw.record is not None:
            try:
                yield raw.row, to_example(raw.record, options)
            except BadRow:  # not the row that was scored: another file, and another's fault
                continue
        if raw.row >= last:
            return


def _texts(example: Example) -> Texts:
    if not example.messages:
        return Texts((("", example.prompt),) if example.prompt else (), example.response)
    turns = [(message.role, message.text) for message in example.messages]
    answer = max(i for i, (role, _) in enumerate(turns) if role == "assistant")
    return Texts(tuple(turns[:answer] + turns[answer + 1 :]), turns[answer][1])
