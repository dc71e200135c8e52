"""What a comparison found, in words: which methods beat random, which tie with it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
VERDICTS = ("win", "tie", "loss")


# Verdicts of a method over all metrics and sizes -> words for one method, and for several.
SAID = {
    ("win",): ("beats {it}{all}", "beat {it}{all}"),
    ("win", "tie"): (
        "beats {it} in some cases and ties with it in the others",
        "beat {it} in some cases and tie with it in the others",
    ),
    ("win", "loss"): (
        "beats {it} in some cases and is worse in others",
        "beat {it} in some cases and are worse in others",
    ),
    ("tie",): ("ties with {it}", "tie with {it}"),
    ("tie", "loss"): (
        "is worse than {it} in some cases and ties with it in the others",
        "are worse than {it} in some cases and tie with it in the others",
    ),
    ("loss",): ("is worse than {it}{all}", "are worse than {it}{all}"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One metric's methods by their verdict against random, in words; empty if there are none.

    ours: STAFF's verdicts against the best other method, if that is not always random.
    """

    wins: str
    ties: str
    losses: str
    ours: str


def without_zeros(rows: Sequence[Row]) -> list[Row]:
    """The rows of the metrics that tell methods apart: not of one that is 0 for all of them.

    All rows if no metric would be left.
    """
    silent = zeros(rows)
    return [row for row in rows if row["metric"] not in silent] or list(rows)


def zeros(rows: Sequence[Row]) -> list[str]:
    """The metrics that are 0 for every method at every size, as an exact match often is."""
    sized = [row for row in rows if row["keep"] is not None]
    telling = {row["metric"] for row in sized if row["value"]}
    return [m for m in dict.fromkeys(row["metric"] for row in sized) if m not in telling]


def headline(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """(methods, what is true of them), over all metrics and sizes; empty without differences."""
    verdicts: dict[str, list[str]] = {}
    for row in rows:
        if row["random_verdict"]:
            verdicts.setdefault(row["method"], []).append(row["random_verdict"])
    found: list[tuple[str, str]] = []
    for key, (one, several) in SAID.items():
        methods = [method for method, own in verdicts.items() if _kind(own) == key]
        if methods:
            words = one if len(methods) == 1 else several
            it = "it" if found else "a random subset of the same size"
            every = " throughout" if len(verdicts[methods[0]]) > 1 else ""
            found.append((joined(methods), words.format(it=it, all=every)))
    return found


def find(rows: Sequence[Row]) -> Finding:
    """The finding of one metric's rows."""
    judged = [row for row in rows if row["random_verdict"]]
    wins, ties, losses = (
        [row for row in judged if row["random_verdict"] == verdict] for verdict in VERDICTS
    )
    told = {row["method"] for row in (*wins, *losses)}
    tied = list(dict.fromkeys(row["method"] for row in ties if row["method"] not in told))
    if len(tied) < len({row["method"] for row in ties}):
        tied.append("the other sizes")
    return Finding(_methods(wins, judged), joined(tied), _methods(losses, judged), _ours(rows))


def tallies(rows: Sequence[Row]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Method -> metric -> its wins, ties and losses against random over the sizes."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for row in rows:
        if verdict := row["random_verdict"]:
            metrics = found.setdefault(row["method"], {})
            before = metrics.get(row["metric"], (0,) * len(VERDICTS))
            metrics[row["metric"]] = tuple(
                n + (verdict == v) for n, v in zip(before, VERDICTS, strict=True)
            )
    return found


def joined(words: Sequence[str]) -> str:
    """Words as a list in a sentence.

    >>> joined(["a"]), joined(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _methods(said: Sequence[Row], judged: Sequence[Row]) -> str:
    """Methods, each with its sizes unless all of its sizes got this verdict."""
    words = []
    for method in dict.fromkeys(row["method"] for row in said):
        keeps = [f"{row['keep']:g}" for row in said if row["method"] == method]
        every = len(keeps) == sum(row["method"] == method for row in judged)
        words.append(method if every else f"{method} (keep {joined(keeps)})")
    return joined(words)


def _ours(rows: Sequence[Row]) -> str:
    judged = [row for row in rows if row["method"] == "staff" and row["best_verdict"]]
    if not {row["best"] for row in judged} - {"random"}:
        return ""
    counts = {v: sum(row["best_verdict"] == v for row in judged) for v in VERDICTS}
    plural = {"win": "wins", "tie": "ties", "loss": "losses"}
    return joined([f"{n} {v if n == 1 else plural[v]}" for v, n in counts.items() if n])


def _kind(verdicts: Sequence[str]) -> tuple[str, ...]:
    """Which verdicts there are; with both a win and a loss, a tie adds nothing."""
    kind = tuple(v for v in VERDICTS if v in verdicts)
    return ("win", "loss") if kind == VERDICTS else kind
