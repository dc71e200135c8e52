"""Effort scores predicted for rows that were not scored, from those that were (``--score-on``).

Ridge regression of the scores' logarithms on hashed counts of the prompt's and the response's
tokens (feature hashing: Weinberger et al., ICML 2009) and on both lengths. No model runs. A
regression shrinks its values towards the mean, so they only rank the rows: their scores are those
of the scored rows at the same quantiles.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from staff.data.store import TokenStore
from staff.errors import DataError
from staff.rng import UINT64, keys_of_ids, priorities
from staff.types import IGNORE, Floats, Ints, read_only
from staff.words import counted

WIDTH = 512  # hashed counts of the prompt, and as many of the response
FOLDS = 5
RIDGES = (0.03, 0.1, 0.3, 1.0)  # times the rows, of features with variance 1
FEWEST = 50  # scored rows; fewer say nothing of others
BLOCK = 4096  # rows held as features at a time: 17 MB


@dataclass(frozen=True, slots=True)
class Interpolated:
    """Scores float64 [n] of all rows: the scored rows' own, and the others' as predicted from them.

    observed, predicted: float64 [m], logarithms of the scored rows' scores, and what a regression
    without them predicts of each (5 folds): how good it is.
    """

    scores: Floats
    observed: Floats
    predicted: Floats


def check_enough(count: int) -> None:
    """Raise `DataError` if so many scored rows are too few to predict the others' scores."""
    if count < FEWEST:
        raise DataError(
            f"{counted(count, 'scored row is', 'scored rows are')} too few to predict the other "
            "scores from: raise --score-on "
            f"until at least {FEWEST} are scored, or leave it out"
        )


def interpolate(store: TokenStore, scored: Ints, scores: Floats, *, seed: int = 0) -> Interpolated:
    """Scores of all rows of the store, from those float64 [m] of the rows at `scored`.

    scored: int64 [m], ascending. A scored row whose score is not finite keeps it and teaches
    nothing. The same on every run with one seed.

    Raises DataError where fewer than `FEWEST` rows have a finite score.
    """
    known = np.isfinite(scores)
    taught, values = scored[known], scores[known]
    check_enough(len(taught))
    smallest = values[values > 0].min(initial=np.inf)
    target = np.log(np.maximum(values, smallest if np.isfinite(smallest) else 1.0))
    model = _Ridge(store, taught, target, seed=seed)
    others = np.setdiff1d(np.arange(len(store)), scored, assume_unique=True)
    found = np.full(len(store), np.nan)
    found[scored] = scores
    found[others] = np.quantile(values, _quantiles(model.predict(others)))
    return Interpolated(read_only(found), target, model.left_out)


class _Ridge:
    """The regression, its penalty the one that predicts rows left out best."""

    def __init__(self, store: TokenStore, rows: Ints, target: Floats, *, seed: int) -> None:
        self.store, self.seed = store, seed
        keys = keys_of_ids((store.ids[row] for row in rows.tolist()), seed)
        fold = (priorities(keys, seed, "folds") % UINT64(FOLDS)).astype(np.int64)
        products = self._products(rows, target, fold)
        weights = [
            [_solve(products.sum(0) - products[k], ridge) for ridge in RIDGES] for k in range(FOLDS)
        ]
        left_out = np.empty((len(rows), len(RIDGES)))
        for at, features in self._blocks(rows):
            for k in range(FOLDS):
                here = fold[at] == k
                left_out[at[here]] = features[here] @ np.stack(weights[k], axis=1)
        error = ((left_out - target[:, None]) ** 2).mean(0)
        best = int(error.argmin())
        self.left_out = left_out[:, best]
        self.weights = _solve(products.sum(0), RIDGES[best])

    def predict(self, rows: Ints) -> Floats:
        """Predictions float64 [m] of the rows."""
        found = np.empty(len(rows))
        for at, features in self._blocks(rows):
            found[at] = features @ self.weights
        return found

    def _products(self, rows: Ints, target: Floats, fold: Ints) -> Floats:
        """[X y]ᵀ[X y] of each fold, [FOLDS, D + 1, D + 1]; X's last column is 1."""
        products = np.zeros((FOLDS, 2 * WIDTH + 4, 2 * WIDTH + 4))
        for at, features in self._blocks(rows):
            both = np.column_stack([features, target[at]])
            for k in range(FOLDS):
                part = both[fold[at] == k]
                products[k] += part.T @ part
        return products

    def _blocks(self, rows: Ints) -> Iterator[tuple[Ints, Floats]]:
        """Places in `rows`, and features of the rows there."""
        for start in range(0, len(rows), BLOCK):
            at = np.arange(start, min(start + BLOCK, len(rows)))
            yield at, token_features(self.store, rows[at], seed=self.seed)
            self.store.release()


def token_features(store: TokenStore, rows: Ints, *, seed: int = 0) -> Floats:
    """Hashed token counts of prompt and response, the logarithms of both lengths, and 1.

    Returns float64 [m, 2 · WIDTH + 3]. Counts are signed sums over a part's tokens divided by the
    root of its length.
    """
    features = np.zeros((len(rows), 2 * WIDTH + 3))
    features[:, -1] = 1
    for place, example in enumerate(store.get(rows)):
        in_loss = example.labels != IGNORE
        for part, mask in enumerate((~in_loss, in_loss)):
            tokens = example.input_ids[mask]
            keys = priorities(tokens.astype(UINT64), seed, "hash")
            slot = (keys % UINT64(WIDTH)).astype(np.int64)
            sign = np.where(keys >> UINT64(63), 1.0, -1.0)
            counts = np.bincount(slot, sign, minlength=WIDTH) / np.sqrt(max(1, len(tokens)))
            features[place, part * WIDTH : (part + 1) * WIDTH] = counts
            features[place, 2 * WIDTH + part] = np.log1p(len(tokens))
    return features


def _solve(products: Floats, ridge: float) -> NDArray[np.float64]:
    """Weights [D] that minimise ‖Xw − y‖² + λ Σ w² σ²: of standardised features, without the 1.

    products: [X y]ᵀ[X y].
    """
    left, right = products[:-1, :-1], products[:-1, -1]
    rows = left[-1, -1]
    variance = np.diag(left) / rows - (left[-1] / rows) ** 2
    alike = variance < 1e-9  # the same in every row (or in none): it tells nothing
    penalty = ridge * rows * np.where(alike, 1.0, variance)
    penalty[-1] = 0
    return np.asarray(np.linalg.solve(left + np.diag(penalty), right))


def _quantiles(values: Floats) -> Floats:
    """Where each value lies among all: (rank + 1/2) / m, of equal ones the mean."""
    ordered = np.sort(values)
    ends = [np.searchsorted(ordered, values, side) for side in ("left", "right")]
    return (ends[0] + ends[1]) / (2 * max(1, len(values)))
