"""What the selectors accept: checked once here, assumed everywhere else."""

import math
import operator
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from staff.errors import ConfigError, DataError, unknown_name
from staff.types import Floats, Ints, Keys
from staff.words import rows_of

# What NumPy raises of values that are none; torch the last, of a tensor that requires a gradient.
NOT_NUMBERS = (TypeError, ValueError, OverflowError, RuntimeError)
MOST_REGIONS = 1_000_000  # their edges are held in memory, empty regions' too


def as_scores(scores: ArrayLike, *, name: str = "scores") -> Floats:
    """Return the scores as float64 [n], all finite.

    Raises DataError for no scores, another shape, values that are not numbers, and
    for NaN or infinity (a masked value counts as NaN), naming how many and the first rows.
    """
    array = as_floats(scores, name=name)
    if array.ndim != 1 or len(array) == 0:
        raise DataError(
            f"{name} must be one number per row, at least one row; got shape {array.shape}"
        )
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        first = ", ".join(f"row {row} is {array[row]}" for row in bad[:5].tolist())
        raise DataError(
            f"{len(bad)} of {len(array)} {name} are not finite ({first}{', …' * (len(bad) > 5)}).\n"
            "Score these rows again or leave them out."
        )
    return array


def as_floats(values: ArrayLike, *, name: str) -> Floats:
    """Return the values as float64, masked ones as NaN; DataError if they are not numbers."""
    try:
        return np.asarray(_unmasked(values), dtype=np.float64)
    except NOT_NUMBERS as problem:
        raise DataError(f"{name} must be numbers, one per row: {problem}") from None


def as_features(features: ArrayLike) -> NDArray[np.float32]:
    """Return the features as float32 [n, D], all finite.

    Raises DataError for no rows, another shape, values that are not numbers, NaN or infinity.
    """
    try:
        array = np.asarray(_unmasked(features), dtype=np.float32)
    except NOT_NUMBERS as problem:
        raise DataError(f"features must be numbers, one vector per row: {problem}") from None
    if array.ndim != 2 or 0 in array.shape:
        raise DataError(
            f"features must be one vector per row, at least one row; got shape {array.shape}"
        )
    sums = array.sum(axis=1, dtype=np.float64)  # no mask as large as the features
    bad = np.flatnonzero(~np.isfinite(sums))
    if len(bad):
        those = rows_of(len(bad))
        raise DataError(f"the features of {those} are not finite, first of row {bad[0]}")
    return array


def _unmasked(values: ArrayLike) -> ArrayLike:
    """A masked array with NaN for what is masked, where NumPy takes what lies under the mask."""
    if isinstance(values, np.ma.MaskedArray):
        return np.ma.filled(values.astype(np.float64), np.nan)
    return values


def as_labels(labels: ArrayLike | None, n: int, *, name: str = "labels") -> Ints:
    """Return the number int64 [n] of each row's label, from 0; without labels all are 0.

    Raises DataError for labels that are not one a row.
    """
    if labels is None:
        return np.zeros(n, dtype=np.int64)
    array = np.asarray(labels)
    if array.shape != (n,):
        raise DataError(f"{name} must be {n}, one per row; got shape {array.shape}")
    return np.unique(array, return_inverse=True)[1].astype(np.int64, copy=False)


def as_keys(keys: ArrayLike | None, n: int) -> Keys:
    """Return one uint64 key a row [n], in the same order; without keys, the row's position.

    Raises DataError for keys that are not integers or not n of them.
    """
    if keys is None:
        return np.arange(n, dtype=np.uint64)
    array = np.asarray(keys)
    if array.shape != (n,) or array.dtype.kind not in "iu":
        raise DataError(
            f"keys must be {n} integers, one per row; got shape {array.shape} of {array.dtype}.\n"
            "staff.rng.keys_of_ids makes them from ids."
        )
    if array.dtype.kind == "i" and array.min(initial=0) < 0:
        # Without the flip of the sign bit, those below 0 would be the largest.
        return array.astype(np.int64).view(np.uint64) ^ np.uint64(1 << 63)
    return array.astype(np.uint64, copy=False)


def check_total(total: int, n: int) -> int:
    """Return the number of rows to choose, an int in [1, n]; ConfigError otherwise."""
    try:
        count = operator.index(total)
    except TypeError:
        raise ConfigError(f"total must be a whole number of rows; got {total!r}") from None
    if not 1 <= count <= n:
        raise ConfigError(f"total must be between 1 and {n}, the number of rows; got {count}")
    return count


def check_at_least_one(name: str, value: int) -> int:
    """Return a whole number ≥ 1; ConfigError otherwise."""
    try:
        count = operator.index(value)
    except TypeError:
        raise ConfigError(f"{name} must be a whole number; got {value!r}") from None
    if count < 1:
        raise ConfigError(f"{name} must be at least 1; got {count}")
    return count


def check_regions(name: str, value: int) -> int:
    """Return a number of regions in [1, MOST_REGIONS]; ConfigError otherwise."""
    count = check_at_least_one(name, value)
    if count > MOST_REGIONS:
        raise ConfigError(f"{name} must be at most {MOST_REGIONS}; got {count}")
    return count


def check_known(kind: str, name: str, valid: Iterable[str]) -> None:
    """Raise ConfigError naming the nearest valid name if `name` is not one of `valid`."""
    valid = tuple(valid)
    if name not in valid:
        raise ConfigError(unknown_name(kind, str(name), valid))


def check_cut(cut: float | str | Decimal, *, name: str = "cut") -> None:
    """Raise ConfigError if the fraction to cut is not in [0, 1)."""
    try:
        in_range = 0 <= float(cut) < 1
    except (TypeError, ValueError):
        in_range = False
    if not in_range:
        raise ConfigError(f"{name} must be at least 0 and below 1; got {cut}")


def count_of(fraction: float | str | Decimal, n: int) -> int:
    """⌊fraction·n⌋ with the fraction read as the decimal it is written as.

    In binary, 0.29·100 is 28.999…; here it is 29. Raises ConfigError if `fraction`
    is not a finite number.

    >>> int(0.29 * 100), count_of(0.29, 100)
    (28, 29)
    """
    try:
        decimal = Decimal(str(fraction))
    except InvalidOperation:
        raise ConfigError(f"a fraction must be a number; got {fraction!r}") from None
    if not decimal.is_finite():
        raise ConfigError(f"a fraction must be a finite number; got {fraction!r}")
    return math.floor(Fraction(decimal) * n)
