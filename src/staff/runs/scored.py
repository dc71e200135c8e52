"""The score that a method goes by: its column in selection.parquet, and what people call it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from staff.selectors import SCORE, SELECTORS, needs
from staff.types import Floats, Ints

EFFORT = "score_small"
IFD = "ifd"  # a ratio of two columns, and none itself
LENGTH = "response_length"
COLUMNS = {IFD: ("loss", "unconditioned_loss")}  # that a score is made of, if not its own
MEAN = "mean over the response tokens"
NORM = "norm of the small model's gradient"
LOSS = f"the small model's loss, {MEAN}"


@dataclass(frozen=True, slots=True)
class Score:
    """A score in words. column: of selection.parquet, or `IFD`. name: as short as a heading.

    title: of an axis. meaning: what it measures.
    """

    column: str
    name: str
    title: str
    meaning: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of selection.parquet that it is made of."""
        return COLUMNS.get(self.column, (self.column,))

    def values(self, table: Mapping[str, Any]) -> Floats:
        """The score of every row, float64 [n], NaN = none or not finite. table: columns by name."""
        if self.column != IFD:
            found = np.asarray(table[self.column], np.float64)
        else:
            # Not by `selectors.ifd`, which refuses losses of 0: rows on a list may have them.
            loss, alone = (np.asarray(table[name], np.float64) for name in self.columns)
            with np.errstate(divide="ignore", invalid="ignore"):
                found = loss / alone
        return np.where(np.isfinite(found), found, np.nan)


OF_COLUMN = {
    "effort": Score(EFFORT, "effort score", "effort score on the small model",
                    f"the {NORM}; higher is harder"),
    "loss": Score("loss", "loss", "loss on the small model", LOSS),
    "entropy": Score("entropy", "entropy", "entropy on the small model",
                     f"that of the small model's predictions, {MEAN}"),
    "el2n": Score("el2n", "EL2N score", "EL2N on the small model",
                  f"‖softmax − one-hot‖₂ of the small model's predictions, {MEAN}"),
    LENGTH: Score(LENGTH, "response length", "response length in tokens",
                  "in tokens, of the small model's tokenizer"),
}  # fmt: skip
OF_METHOD = {  # where the paper of a method has a name of its own
    "grand": Score(EFFORT, "GraNd score", "GraNd (effort) score on the small model",
                   f"the {NORM}, which is the effort score"),
    "perplexity": Score("loss", "log perplexity", "log perplexity (loss) on the small model",
                        f"{LOSS}; the perplexity is its exponential and gives the same order"),
    IFD: Score(IFD, "IFD ratio", "IFD ratio",
               "the loss of the response given its prompt, divided by its loss without"),
}  # fmt: skip


def score_of(config: Mapping[str, Any]) -> Score | None:
    """The score a run's method goes by; None if it goes by none (random, or by features)."""
    method = config.get("method") or "staff"
    column = SCORE.get(method)
    if method in ("ccs", "d2"):
        column = config.get("difficulty") or column
    if column is None:
        return None
    return OF_METHOD.get(method) or OF_COLUMN[column]


def by_features(config: Mapping[str, Any]) -> bool:
    """Whether a run's method goes by the rows' features and no score."""
    method = config.get("method") or "staff"
    return method in SELECTORS and method not in SCORE and "features" in needs(method)


def score_facts(score: Score, values: Floats, chosen: Mapping[str, Ints]) -> dict[str, Any] | None:
    """The score over all rows and over every coreset, for the manifest; None if none is known.

    values: float64 [n]. chosen: coreset -> positions of its rows.
    """
    if np.isnan(values).all():
        return None
    return {
        "column": score.column,
        "all": _spread(values),
        "chosen": {name: _spread(values[rows]) for name, rows in chosen.items()},
    }


def _spread(values: Floats) -> dict[str, float] | None:
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    return {"lowest": known.min(), "median": float(np.median(known)), "highest": known.max()}
