"""Moderate coreset (Xia et al., ICLR 2023)."""

from __future__ import annotations  # or help() shows all that an ArrayLike may be

import numpy as np
from numpy.typing import ArrayLike

from staff.selectors.arguments import as_features, as_keys, as_labels, check_total
from staff.selectors.order import hardest_first
from staff.selectors.picks import from_order
from staff.types import Selection


def select_moderate(
    *,
    features: ArrayLike,
    total: int,
    keys: ArrayLike | None = None,
    labels: ArrayLike | None = None,
) -> Selection:
    """Take the rows whose distance from the centre of their class is nearest the median.

    Rows near a centre are redundant, those far from it may be noise. A centre is the mean
    of a class; the median is over all distances. Fine-tuning data has no classes, so
    without `labels` there is one centre.

    features: [n, D], finite. keys: [n] distinct integers that order equal distances
    (smaller first). Default: positions. labels: [n], any comparable values.

    Raises DataError for unusable arrays, ConfigError for a total outside [1, n].

    >>> select_moderate(features=[[0.0], [1.0], [2.0], [3.0], [9.0]], total=1).rows
    array([1])
    """
    features = as_features(features)
    n = len(features)
    total = check_total(total, n)
    keys = as_keys(keys, n)
    label = as_labels(labels, n)
    # Sums round by order: taken in the order of the keys, the input's does not matter.
    by_key = np.argsort(keys, kind="stable")
    distance = np.empty(n)
    for number in range(int(label.max()) + 1):
        rows = by_key[label[by_key] == number]
        centre = features[rows].mean(axis=0, dtype=np.float64)
        for row in rows:
            distance[row] = np.linalg.norm(features[row] - centre)
    off = np.abs(distance - np.median(distance))
    return from_order(hardest_first(-off, keys, total), n, method="moderate")
