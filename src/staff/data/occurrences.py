"""How often a content has occurred before, among millions, without storing it."""

import numpy as np

from staff.types import Ints, Keys


class Occurrences:
    """Counts 64-bit numbers, at 12 bytes a distinct one; a Python set takes a hundred.

    They lie in sorted runs, each more than twice as long as the next: a number is looked up in
    each of these few, and joins log2(n) longer runs in its time.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[Keys, Ints]] = []  # of numbers, ascending, and their counts

    def count(self, numbers: Keys) -> Ints:
        """Take in numbers [m]; how often each came before, int64 [m], in earlier calls and here.

        >>> seen = Occurrences()
        >>> seen.count(np.array([7, 5, 7], np.uint64)).tolist()
        [0, 0, 1]
        >>> seen.count(np.array([7, 9], np.uint64)).tolist()
        [2, 0]
        """
        if not len(numbers):
            return np.empty(0, np.int64)
        order = np.argsort(numbers, kind="stable")
        sorted_ = numbers[order]
        starts = np.flatnonzero(np.concatenate([[True], sorted_[1:] != sorted_[:-1]]))
        counts = np.diff(np.append(starts, len(sorted_)))
        distinct = sorted_[starts]
        before = np.zeros(len(distinct), np.int64)
        for known, times in self._runs:
            at = np.minimum(np.searchsorted(known, distinct), len(known) - 1)
            before += np.where(known[at] == distinct, times[at], 0)
        within = np.arange(len(sorted_)) - np.repeat(starts, counts)
        found = np.empty(len(numbers), np.int64)
        found[order] = np.repeat(before, counts) + within
        self._runs.append((distinct, counts.astype(np.uint32)))
        while len(self._runs) > 1 and len(self._runs[-2][0]) <= 2 * len(self._runs[-1][0]):
            self._runs[-2:] = [_merged(*self._runs[-2:])]
        return found


def _merged(one: tuple[Keys, Ints], other: tuple[Keys, Ints]) -> tuple[Keys, Ints]:
    numbers, counts = (np.concatenate(pair) for pair in zip(one, other, strict=True))
    order = np.argsort(numbers, kind="stable")
    numbers, counts = numbers[order], counts[order]
    starts = np.flatnonzero(np.concatenate([[True], numbers[1:] != numbers[:-1]]))
    return numbers[starts], np.add.reduceat(counts, starts, dtype=np.uint32)
