"""Constraints for every selector besides the size: rows that must be in or out, quotas, nesting.

Here a selector is a `Choose`: it chooses `total` of some rows of the data and knows nothing about
the others. All constraints are implemented by such calls.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from staff.errors import ConfigError
from staff.selectors.draw import OVER_BUDGET
from staff.selectors.picks import first
from staff.selectors.quotas import apportion
from staff.selectors.tokens import fit_tokens
from staff.types import REASONS, Bools, Budget, Ints, Selection, read_only
from staff.words import rows_of

INCLUDED, EXCLUDED, REJECTED = (
    REASONS.index(name) for name in ("included", "excluded", "rejected")
)

# (rows int64 [p] of the data, sorted; total; seed) -> a Selection of those p rows.
Choose = Callable[[Ints, int, int], Selection]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What holds for every coreset of n rows.

    include, exclude: rows that are always and never in it. rejected: rows that cannot be
    chosen, since their score is not finite. group: int64 [n], the quota group of each row, from
    0; None: no quotas.
    """

    n: int
    include: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    exclude: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    rejected: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    group: Ints | None = None

    @property
    def free(self) -> Bools:
        """bool [n], the rows that the selector chooses from."""
        free = np.ones(self.n, np.bool_)
        free[self.include] = free[self.exclude] = free[self.rejected] = False
        return free


@dataclass(frozen=True, slots=True)
class Size:
    """How large a coreset is to be: a number of rows, or of tokens."""

    rows: int | None = None
    tokens: int | None = None


def choose_one(
    choose: Choose, total: int, wishes: Wishes, *, seed: int, among: Bools | None = None
) -> Selection:
    """One coreset of `total` rows: those to include, and what the selector makes of the rest.

    Quotas share the rest in proportion to each group's free rows (`apportion`); the
    selector then chooses within each group. among: bool [n], rows it may come from: those of a
    larger coreset with the same wishes, which has as many of every group as a smaller one needs.

    Raises ConfigError if the rows to include are more than `total`, or the free ones too few.
    """
    free = wishes.free if among is None else wishes.free & among
    rows = np.flatnonzero(free)
    left = total - len(wishes.include)
    _check_room(total, fixed=len(wishes.include), free=len(rows))
    groups, budgets = [rows], [left]
    if wishes.group is not None:
        groups = _by_group(rows, wishes.group)
        # Of all free rows, not of those in `among`, which are rounded shares already.
        places = apportion(np.bincount(wishes.group[wishes.free]), left)
        budgets = [int(places[wishes.group[members[0]]]) for members in groups]

    reason = np.full(wishes.n, OVER_BUDGET, np.int8)  # [n]
    reason[wishes.rejected] = REJECTED
    reason[wishes.exclude], reason[wishes.include] = EXCLUDED, INCLUDED
    parts = [
        (members, choose(members, budget, seed))
        for members, budget in zip(groups, budgets, strict=True)
        if budget
    ]
    for members, part in parts:
        reason[members] = part.reason
    budgeted = [part.budget for _, part in parts if part.budget is not None]
    chosen = [wishes.include, *(members[part.rows] for members, part in parts)]
    alone = len(parts) == 1 and not len(wishes.include)
    order = parts[0][1].order if alone else None
    return Selection(
        rows=read_only(np.sort(np.concatenate(chosen))),
        reason=read_only(reason),
        method=parts[0][1].method if parts else "",
        budget=_together(budgeted, left) if budgeted else None,
        details=parts[0][1].details if parts else {},
        order=None if order is None else read_only(parts[0][0][order]),
    )


def check_wishes(sizes: Mapping[str, Size], wishes: Wishes) -> None:
    """Raise ConfigError if a coreset of so many rows cannot be made, whatever is chosen.

    Or if nothing is left to choose: a method needs a row.
    """
    free = int(np.count_nonzero(wishes.free))
    if not free:
        raise ConfigError(
            "no row is left to choose from: all are on the lists of rows to include and to exclude"
        )
    for size in sizes.values():
        if size.rows is not None:
            _check_room(size.rows, fixed=len(wishes.include), free=free)


def _check_room(total: int, *, fixed: int, free: int) -> None:
    if total < fixed:
        raise ConfigError(
            f"a coreset of {rows_of(total)} cannot contain the {rows_of(fixed)} to include"
        )
    if total > free + fixed:
        raise ConfigError(
            f"a coreset of {rows_of(total)} cannot be made: only {rows_of(free + fixed)} may be in "
            "it"
        )


def choose_all(
    choose: Choose,
    sizes: Mapping[str, Size],
    wishes: Wishes,
    *,
    seed: int,
    lengths: Ints | None = None,
    nested: bool = False,
) -> dict[str, Selection]:
    """Every coreset asked for, under its name, in the order asked for.

    With `nested`, each lies within the next larger one: where it does not by itself, it is
    chosen again from the larger one's rows. lengths: int [n], tokens a row, for sizes in tokens.

    Raises ConfigError as `choose_one` and `fit_tokens` do.
    """
    choose = remembering(choose)

    def make(size: Size, among: Bools | None) -> Selection:
        if size.rows is not None:
            return choose_one(choose, size.rows, wishes, seed=seed, among=among)
        assert lengths is not None
        assert size.tokens is not None
        fixed = len(wishes.include)
        most = fixed + int(np.count_nonzero(wishes.free if among is None else wishes.free & among))
        return fit_tokens(
            lambda total: choose_one(choose, total, wishes, seed=seed, among=among),
            lengths=lengths,
            tokens=size.tokens,
            least=max(1, fixed),
            most=most,
        )

    largest_first = sorted(sizes, key=lambda name: -(sizes[name].rows or 0))
    made = {name: make(sizes[name], None) for name in largest_first}
    if not nested:
        return {name: made[name] for name in sizes}
    among = np.ones(wishes.n, np.bool_)
    for name in sorted(made, key=lambda name: -len(made[name].rows)):
        if not among[made[name].rows].all():
            made[name] = make(sizes[name], among)
        among = np.zeros(wishes.n, np.bool_)
        among[made[name].rows] = True
    return {name: made[name] for name in sizes}


def remembering(choose: Choose) -> Choose:
    """The same `choose`, which for a selector with an order runs it once for many totals."""
    known: dict[tuple[int, bytes], Selection] = {}

    def chosen(rows: Ints, total: int, seed: int) -> Selection:
        key = (seed, hashlib.blake2b(rows.tobytes()).digest())
        longest = known.get(key)
        if longest is None or len(longest.rows) < total:
            # Outgrown once, it may be again: sizes in tokens are found by trying.
            room = total if longest is None else min(len(rows), total + total // 4)
            longest = choose(rows, room, seed)
            if longest.order is None:
                return longest
            known[key] = longest
        return longest if len(longest.rows) == total else first(longest, total)

    return chosen


def _together(budgets: Sequence[Budget], total: int) -> Budget:
    """The budgets of several groups over the same regions, added up."""
    equal = [budget.equal for budget in budgets if budget.equal is not None]
    return Budget(
        count=read_only(np.sum([budget.count for budget in budgets], axis=0)),
        total=total,
        equal=read_only(np.sum(equal, axis=0)) if equal else None,
    )


def _by_group(rows: Ints, group: Ints) -> list[Ints]:
    """The rows of each group, ascending; groups without any are left out."""
    order = np.argsort(group[rows], kind="stable")
    numbers = group[rows][order]
    return np.split(rows[order], np.flatnonzero(np.diff(numbers)) + 1) if len(rows) else []
