"""Read a JSON array of any size, one piece at a time."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, TextIO

from staff.data.streams import ROW_LIMIT, too_long
from staff.errors import DataError

CHUNK_CHARACTERS = 1 << 20
IN_NUMBERS = "0123456789.eE+-"
CUT_SHORT = 16  # an escape or a literal cut by the end of the buffer faults this near to it


def items(text: TextIO, *, name: str) -> Iterator[tuple[int, Any, str]]:
    """The elements of one JSON array: (line it starts on, value, its source text).

    A fault ends the reading with `DataError`: nothing after it can be told apart.
    """
    scan = _Scanner(text, name)
    if scan.peek() != "[":
        raise scan.fault("expected '[', the start of a JSON array")
    scan.at += 1
    if scan.peek() != "]":
        while True:
            scan.peek()
            yield scan.value()
            if scan.peek() == "]":
                break
            if scan.peek() != ",":
                raise scan.fault("expected ',' or ']' after a row")
            scan.at += 1
    scan.at += 1
    if scan.peek():
        raise scan.fault("text after the end of the array")


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object from its pairs; ValueError for a key that is there twice: one would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        times = Counter(name for name, _ in pairs)
        twice = next(name for name, _ in pairs if times[name] > 1)
        raise ValueError(f"the key {twice[:60]!r} appears more than once")
    return found


class _Scanner:
    """A text, read ahead in chunks; `at` is the next unread character of `buffer`."""

    def __init__(self, text: TextIO, name: str) -> None:
        self.text = text
        self.name = name
        self.buffer = ""
        self.at = 0
        self.line = 1
        self.ended = False

    def fault(self, reason: str, *, line: int | None = None) -> DataError:
        """The error for this place; a missing rest is told from a wrong character."""
        if self.ended and self.at >= len(self.buffer):
            reason = "the file ends in the middle of its JSON array"
        return DataError(f"{self.name}, line {line or self.line}: broken JSON: {reason}")

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            while self.at < len(self.buffer) and self.buffer[self.at] in " \t\r\n":
                self.line += self.buffer[self.at] == "\n"
                self.at += 1
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if self.ended:
                return ""
            self._fill()

    def value(self) -> tuple[int, Any, str]:
        """Parse the value that starts at `at`."""
        decode = json.JSONDecoder(object_pairs_hook=once).raw_decode
        while True:
            try:
                value, end = decode(self.buffer, self.at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or (
                    error.pos >= len(self.buffer) - CUT_SHORT
                )
                if self.ended or not cut:
                    line = self.line + self.buffer.count("\n", self.at, error.pos)
                    self.at = error.pos
                    raise self.fault(error.msg.removesuffix(" starting at"), line=line) from error
            except RecursionError as error:
                raise self.fault("lists and objects are nested too deeply") from error
            except ValueError as error:
                raise self.fault(str(error)) from error
            else:
                whole = self.buffer[end : end + CUT_SHORT].strip(IN_NUMBERS)
                if whole or self.ended:  # else it may be the start of a longer number: 1|2, 0|.5
                    raw, line = self.buffer[self.at : end], self.line
                    self.line += raw.count("\n")
                    self.at = end
                    return line, value, raw
            self._fill()

    def _fill(self) -> None:
        unread = self.buffer[self.at :]
        if len(unread) > ROW_LIMIT:
            raise too_long(self.name, self.line)
        chunk = self.text.read(max(CHUNK_CHARACTERS, len(unread)))  # doubles: linear in all
        self.ended = not chunk
        self.buffer, self.at = unread + chunk, 0
