"""Budgets in tokens: the largest coreset that fits."""

from collections.abc import Callable

from staff.errors import ConfigError
from staff.types import Ints, Selection
from staff.words import counted, rows_of


def fit_tokens(
    select: Callable[[int], Selection],
    *,
    lengths: Ints,
    tokens: int,
    least: int = 1,
    most: int | None = None,
) -> Selection:
    """The coreset of m rows with at most `tokens` tokens, while that of m + 1 has more.

    For a method that only adds rows as m grows there is one such m; for others it is one of
    several. Every probe is a whole selection, some log2(n) of them.

    select: the method's coreset of m rows, for every m in [least, most] (n if not given).
    lengths: int [n], tokens a row.

    Raises ConfigError if even `least` rows are too long.
    """

    def used(selection: Selection) -> int:
        return int(lengths[selection.rows].sum())

    best = select(least)
    if used(best) > tokens:
        raise ConfigError(
            f"{counted(tokens, 'token is', 'tokens are')} too few: the smallest coreset of this "
            f"method, {rows_of(least)}, has {used(best)}"
        )
    low = least  # fits; `high` does not
    high = 1 + (len(lengths) if most is None else most)  # there is none so large
    halve = False
    while high - low > 1:
        # Guess by the mean length of the rest; every other time halve, so that it must end soon.
        guess = low + int((tokens - used(best)) / max(float(lengths.mean()), 1.0))
        middle = (low + high) // 2 if halve else min(max(guess, low + 1), high - 1)
        halve = not halve
        probe = select(middle)
        if used(probe) <= tokens:
            best, low = probe, middle
        else:
            high = middle
    return best
