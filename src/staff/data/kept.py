"""Rows and tokens, kept in the run folder until the run is finished.

A resumed run does not read its data again: it reuses what is there if it is complete and was made
from the same contents (data, way of reading, tokenizers, versions).
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from staff.data.prepare import REJECTED, Prepared
from staff.data.records import RecordOptions
from staff.data.store import TokenStore
from staff.data.tokenise import Tokeniser
from staff.data.writers import json_text, replacing
from staff.errors import StaffError
from staff.hashing import fingerprint, hash_file, versions_of
from staff.notes import read_note

MARK = "prepared.json"  # written last: without it nothing is taken
SOURCES = "sources.json"
COUNTS = ("rows_read", "usable", "rejected", "truncated", "duplicates", "tokens")


def made_from(
    data_hash: str,
    kind: str,
    options: RecordOptions,
    on_bad_row: str,
    on_duplicate: str,
    tokenisers: Sequence[Tokeniser],
) -> str:
    """SHA-256 (hex) of all that decides what is read.

    kind: of the source; the same bytes are other rows as CSV than as TSV.
    """
    return fingerprint(
        {
            "data": data_hash,
            "kind": kind,
            "options": asdict(options),
            "on_bad_row": on_bad_row,
            "on_duplicate": on_duplicate,
            "tokenisers": [tokeniser.fingerprint for tokeniser in tokenisers],
            "versions": versions_of("staff-coreset", "transformers", "tokenizers"),
        }
    )


def keep(prepared: Prepared, folder: Path, key: str) -> None:
    """Mark what lies in `folder` as whole, for `take` with the same key (see `made_from`).

    Nothing is kept of data that were read without a tokenizer.
    """
    if not prepared.stores:
        return
    names = {store.path.name: store.content_hash for store in prepared.stores}
    if prepared.sources is not None:
        _write(folder / SOURCES, prepared.sources)
        names[SOURCES] = hash_file(folder / SOURCES)
    if prepared.rejected_path:
        names[REJECTED] = hash_file(prepared.rejected_path)
    facts = {
        "made_from": key,
        "files": names,
        "stores": [store.path.name for store in prepared.stores],
        "options": asdict(prepared.options),
        "seconds": prepared.seconds,
        **{name: getattr(prepared, name) for name in COUNTS},
    }
    _write(folder / MARK, facts)


def take(folder: Path, key: str) -> tuple[Prepared | None, str | None]:
    """What an earlier start left, or None and, if something is there, why it cannot serve."""
    if not marked(folder):
        return None, None
    try:
        facts = read_note(folder / MARK)
        if facts["made_from"] != key:
            return None, "are for other data, tokenizers or settings"
        for name, known in facts["files"].items():  # before Arrow takes them for what they seem
            if hash_file(folder / name) != known:
                return None, "are damaged"
        opened = {name: TokenStore.open(folder / name) for name in dict.fromkeys(facts["stores"])}
        sources = None
        if SOURCES in facts["files"]:
            names: dict[str | None, str | None] = {}  # one text a source, as `prepare` has it
            sources = tuple(names.setdefault(s, s) for s in read_note(folder / SOURCES))
        stores = tuple(opened[name] for name in facts["stores"])
        rejected = folder / REJECTED if REJECTED in facts["files"] else None
        prepared = Prepared(
            stores=stores,
            ids=stores[0].ids,
            rows=stores[0].rows.astype(np.int64),
            options=RecordOptions(**facts["options"]),
            rejected_path=rejected,
            sources=sources,
            seconds=float(facts.get("seconds", 0.0)),
            kept=True,
            **{name: facts[name] for name in COUNTS},
        )
    except (StaffError, OSError, ValueError, KeyError, TypeError, IndexError):
        return None, "are damaged"
    return replace(prepared, tokens=tuple(prepared.tokens)), None


def marked(folder: Path) -> bool:
    """Whether something is marked as whole there."""
    return (folder / MARK).is_file()


def put_rejected(prepared: Prepared, path: Path) -> None:
    """Copy the rejected rows' file to `path`; remove a stale one if there are none."""
    if prepared.rejected_path is None:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as part:
        shutil.copyfile(prepared.rejected_path, part)  # from another file system, perhaps


def _write(path: Path, content: Any) -> None:
    with replacing(path) as part:
        part.write_text(json_text(content), encoding="utf-8")
