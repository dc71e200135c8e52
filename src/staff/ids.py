"""The ids of many rows, about thirty bytes each; a Python string takes eighty."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, overload

import numpy as np

from staff.types import Ints, read_only

PIECE = 4096  # texts that are Python strings at a time


class Ids(Sequence[str]):
    """n texts, which like a tuple's never change.

    text: uint8, all of them one after another in UTF-8. starts: int64 [n + 1], where each begins,
    and the end of the last.

    >>> ids = Ids.of(["a", "", "né"])
    >>> len(ids), ids[2], ids[:2], ids == ("a", "", "né")
    (3, 'né', ('a', ''), True)
    """

    __slots__ = ("_starts", "_text")

    def __init__(self, text: Any, starts: Ints) -> None:
        self._text, self._starts = text, starts

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Ids":
        """Take in these texts."""
        text, sizes = bytearray(), bytearray()
        for one in texts:
            spelt = one.encode()
            text += spelt
            sizes += len(spelt).to_bytes(8, "little")
        starts = np.concatenate([[0], np.cumsum(np.frombuffer(sizes, "<i8"))]).astype(np.int64)
        return cls(np.frombuffer(bytes(text), np.uint8), read_only(starts))

    @classmethod
    def from_arrow(cls, columns: Iterable[Any]) -> "Ids":
        """Those of Arrow's arrays of strings, one after another."""
        texts, sizes = [np.empty(0, np.uint8)], [np.zeros(1, np.int64)]
        for column in columns:
            if len(column):
                _, offsets, text = column.buffers()
                at = np.frombuffer(offsets, np.int32)[column.offset :][: len(column) + 1]
                whole = np.empty(0, np.uint8) if text is None else np.frombuffer(text, np.uint8)
                texts.append(whole[at[0] : at[-1]].copy())
                sizes.append(np.diff(at))
        return cls(np.concatenate(texts), read_only(np.cumsum(np.concatenate(sizes))))

    @classmethod
    def joined(cls, parts: Sequence["Ids"]) -> "Ids":
        """Those of several, one after another."""
        text = np.concatenate([np.empty(0, np.uint8), *(part._text for part in parts)])
        sizes = np.concatenate([np.zeros(1, np.int64), *(np.diff(p._starts) for p in parts)])
        return cls(text, read_only(np.cumsum(sizes)))

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[str, ...]: ...
    def __getitem__(self, at: int | slice) -> str | tuple[str, ...]:
        if isinstance(at, slice):
            start, stop, step = at.indices(len(self))
            if step == 1:
                return tuple(self._some(start, stop))
            return tuple(self[i] for i in range(start, stop, step))
        place = range(len(self))[at]  # IndexError, and what is negative
        start, end = self._starts[place : place + 2]
        return self._text[start:end].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), PIECE):
            yield from self._some(start, min(start + PIECE, len(self)))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Ids):
            same = np.array_equal(self._starts, other._starts)
            return same and np.array_equal(self._text, other._text)
        if isinstance(other, list | tuple):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    def __hash__(self) -> int:
        return hash((len(self), self._text.tobytes()))

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3])) + ", …" * (len(self) > 3)
        return f"Ids({len(self)}: {shown})"

    def _some(self, start: int, stop: int) -> Iterator[str]:
        if start >= stop:
            return
        ends = (self._starts[start : stop + 1] - self._starts[start]).tolist()
        piece = self._text[self._starts[start] : self._starts[stop]].tobytes()
        for begin, end in pairwise(ends):
            yield piece[begin:end].decode()
