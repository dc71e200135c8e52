"""The user's other columns, beside those that are learnt from: which there are, and their types.

A table has one type a column, records of JSON may have many. Columns of one plain type keep it;
all others are kept as text, each value as JSON.
"""

from collections.abc import Mapping
from typing import Any

from staff.data.columns import columns_read
from staff.data.records import RecordOptions
from staff.data.streams import is_utf8
from staff.data.writers import json_text
from staff.visible import one_line

EXACT = 1 << 53  # a larger whole number has no exact float64


class Columns:
    """Collects what values the other columns hold, row by row.

    taken: names that none of them may have; nor may a name hold control characters.
    """

    def __init__(self, options: RecordOptions, taken: frozenset[str]) -> None:
        self._read = columns_read(options)
        self._taken = taken
        self._kinds: dict[str, set[str]] = {}
        self.left_out: set[str] = set()

    def see(self, record: Mapping[str, Any]) -> None:
        """Take note of one record's values."""
        for name, value in record.items():
            if name in self._read:
                continue
            if name in self._taken or one_line(name) != name:  # control characters end up as none
                self.left_out.add(name)
            else:
                self._kinds.setdefault(name, set()).add(_kind(value))

    @property
    def types(self) -> dict[str, str]:
        """Name -> string, bool, int64, float64 or json, of every column with a value."""
        named = {name: _type(kinds - {"null"}) for name, kinds in self._kinds.items()}
        return {name: kind for name, kind in named.items() if kind}


def values_of(record: Mapping[str, Any], types: Mapping[str, str]) -> dict[str, Any]:
    """A record's values of other columns in the types found, null where it has none."""
    return {name: _value(record.get(name), kind) for name, kind in types.items()}


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        if abs(value) <= EXACT:
            return "int"
        return "long" if abs(value) < 1 << 63 else "other"
    if isinstance(value, float):
        return "float"
    return "string" if isinstance(value, str) and is_utf8(value) else "other"


def _type(kinds: set[str]) -> str:
    if len(kinds) <= 1 and not kinds & {"int", "long", "float", "other"}:
        return next(iter(kinds), "")
    if kinds <= {"int", "long"}:
        return "int64"
    return "float64" if kinds <= {"int", "float"} else "json"


def _value(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "json":
        return json_text(value)
    return float(value) if kind == "float64" else value
