"""Where labels go in a chart so that they do not overlap; all positions are in pixels."""

from collections.abc import Iterable, Sequence

LINE = 13.0  # height of a line of text
LETTER = 6.3  # mean width of a letter
NAMES = 80  # room for the names of methods


def room_for(names: Iterable[str]) -> int:
    """Pixels for names at the side of a chart: longer ones of the user's own take more.

    >>> room_for(["staff", "perplexity"]), room_for(["less-top5-mmlu-bbh-2"])
    (80, 140)
    """
    return max(NAMES, round(LETTER * max(map(len, names), default=0)) + 14)


def spread(
    wished: Sequence[float], *, top: float, bottom: float, least: float = LINE
) -> list[float]:
    """Heights near the wished ones and `least` apart, between top and bottom where they fit.

    >>> spread([10.0, 12.0, 90.0], top=0, bottom=100, least=10)
    [6.0, 16.0, 90.0]
    """
    order = sorted(range(len(wished)), key=lambda i: wished[i])
    groups: list[list[float]] = []  # wished heights of words that touch

    def start(group: Sequence[float]) -> float:
        return sum(group) / len(group) - (len(group) - 1) * least / 2

    for i in order:
        groups.append([wished[i]])
        while len(groups) > 1 and start(groups[-2]) + len(groups[-2]) * least > start(groups[-1]):
            last = groups.pop()
            groups[-1] += last
    placed = [start(group) + n * least for group in groups for n in range(len(group))]
    room = [bottom - n * least for n in range(len(placed))][::-1]
    placed = [min(height, limit) for height, limit in zip(placed, room, strict=True)]
    placed = [max(height, top + n * least) for n, height in enumerate(placed)]
    return [height for _, height in sorted(zip(order, placed, strict=True))]


def beside(
    points: Sequence[tuple[float, float]],
    words: Sequence[str],
    others: Sequence[tuple[float, float]],
    *,
    width: float,
    height: float,
) -> list[tuple[float, float]]:
    """Left end and height of each word, beside its point and off the others where there is room.

    points: one a word. others: further points that a word should not cover.
    """
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in (*points, *others)]
    found = []
    for (x, y), word in zip(points, words, strict=True):
        size = LETTER * len(word)
        places = [
            (left, y + away)
            for away in (0.0, LINE, -LINE, 2 * LINE, -2 * LINE)
            for left in (x + 9, x - 9 - size, x - size / 2)
            if (away or left != x - size / 2)  # else it covers its own point
            and (0 <= left <= width - size and 0 <= y + away <= height)
        ]
        best = min(
            places or [(max(0.0, width - size), y)],
            key=lambda place: sum(_overlap(_box(place, size), other) for other in taken),
        )
        taken.append(_box(best, size))
        found.append(best)
    return found


def _box(place: tuple[float, float], size: float) -> tuple[float, float, float, float]:
    x, y = place
    return (x, y - LINE / 2, x + size, y + LINE / 2)


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """The area two boxes share."""
    across = min(a[2], b[2]) - max(a[0], b[0])
    down = min(a[3], b[3]) - max(a[1], b[1])
    return max(across, 0.0) * max(down, 0.0)
