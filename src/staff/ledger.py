"""What every stage of a run cost."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from staff.notes import read_note
from staff.progress import Say, silent
from staff.runs.store import write_atomic

LEDGER = ".stages.json"


@dataclass(slots=True)
class StageRecord:
    """What one stage cost; `reused` if its result was there already."""

    name: str
    seconds: float = 0.0
    tokens: int = 0
    rows: int = 0
    reused: bool = False


class Ledger:
    """The cost of every stage of one run, in order.

    Stages worth keeping are remembered in a hidden file of the run folder: a stage whose
    result is reused keeps what it cost when it was done, and one that was interrupted adds
    the time of its earlier starts (but for one that was killed outright).
    """

    def __init__(self, folder: Path, say: Say = silent, *, afresh: bool = False) -> None:
        self._say = say
        self.stages: list[StageRecord] = []
        self._path = folder / LEDGER
        self._known: dict[str, dict[str, Any]] = {}
        if not afresh:
            self._known = _read(self._path)

    @contextmanager
    def stage(self, name: str, *, remember: bool = True) -> Iterator[StageRecord]:
        """Time a block; the record it gives takes tokens and rows, and whether it was reused.

        Seconds that the block puts there are added: what of it was done elsewhere, earlier.
        A block of the name of one that is done is another round of that stage: there stays one
        entry, with the time of both. Its rows and tokens are to be those of all rounds.
        """
        record = StageRecord(name)
        before = next((stage for stage in self.stages if stage.name == name), None)
        earlier = self._known.get(name, {"seconds": 0.0, "unfinished": True})
        spent = earlier["seconds"] if earlier.get("unfinished") else 0.0
        spent = before.seconds if before else spent
        start = time.monotonic()
        try:
            yield record
        except BaseException:
            if remember:
                seconds = round(spent + time.monotonic() - start, 3)
                self._keep(name, {"seconds": seconds, "unfinished": True})
            raise
        record.seconds = round(spent + record.seconds + time.monotonic() - start, 3)
        record.reused &= before is None or before.reused
        if record.reused and not earlier.get("unfinished"):
            # Of rounds fewer may be wanted now than were done then.
            wanted = {"rows": record.rows, "tokens": record.tokens} if record.rows else {}
            record = StageRecord(name, **{**earlier, **wanted}, reused=True)
            if before is None:
                self._say(f"{name}: reused from an earlier run")
        elif remember:
            self._keep(name, {k: getattr(record, k) for k in ("seconds", "tokens", "rows")})
        if before is None:
            self.stages.append(record)
        else:
            self.stages[self.stages.index(before)] = record

    def as_dicts(self) -> list[dict[str, Any]]:
        """For the manifest."""
        return [asdict(stage) for stage in self.stages]

    def _keep(self, name: str, cost: dict[str, Any]) -> None:
        self._known[name] = cost
        write_atomic(self._path, json.dumps(self._known))


def remembered(folder: Path) -> dict[str, float]:
    """Seconds of every stage that was ever finished in a run folder and is worth keeping."""
    known = _read(folder / LEDGER)
    return {name: cost["seconds"] for name, cost in known.items() if not cost.get("unfinished")}


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Name of a stage -> its cost; nothing where the file is not there or damaged."""
    try:
        known = read_note(path)
        return {
            name: cost
            for name, cost in known.items()
            if type(cost["seconds"]) in (int, float)
            and cost.keys() <= {"seconds", "tokens", "rows", "unfinished"}
        }
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return {}
