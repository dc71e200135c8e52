"""Selectors: arrays in, a `Selection` out. NumPy only: importing this does not import torch.

A selector is a function of keyword-only arguments. Their names say what it needs, and the
pipeline computes only that (`needs`). `SELECTORS` has each method's function and `SCORE` the
column of selection.parquet that it is given as `scores`; `COSTLY` are the arguments that take a
model to compute; `TAKE`, `WITHIN` and `ALLOCATIONS` have the values of those settings, `PRESETS`
named combinations. CONTRIBUTING.md says how to add a method to them.
"""

import inspect
from collections.abc import Callable
from typing import Any

from staff.selectors.arguments import check_known
from staff.selectors.budgets import ALLOCATIONS, allocate
from staff.selectors.ccs import select_ccs
from staff.selectors.d2 import select_d2
from staff.selectors.draw import WITHIN, draw
from staff.selectors.ifd import select_ifd
from staff.selectors.k_centre import select_k_centre
from staff.selectors.moderate import select_moderate
from staff.selectors.ranking import TAKE, select_random, select_ranked
from staff.selectors.regions import stratify
from staff.selectors.staff import PRESETS, select_staff, total_of
from staff.selectors.verification import choose_rows, weigh
from staff.selectors.why import explain

SELECTORS: dict[str, Callable[..., Any]] = {
    "ccs": select_ccs,
    "d2": select_d2,
    "el2n": select_ranked,
    "entropy": select_ranked,
    "grand": select_ranked,
    "ifd": select_ifd,
    "k-centre": select_k_centre,
    "length": select_ranked,
    "loss": select_ranked,
    "moderate": select_moderate,
    "perplexity": select_ranked,
    "random": select_random,
    "staff": select_staff,
}

# The score a selector is given, by its name in selection.parquet's terms (docs/formats.md).
SCORE: dict[str, str] = {
    "ccs": "effort",
    "d2": "effort",
    "el2n": "el2n",
    "entropy": "entropy",
    "grand": "effort",
    "ifd": "loss",
    "length": "response_length",
    "loss": "loss",
    "perplexity": "loss",  # exp(loss): the same order
    "staff": "effort",
}

# Arguments that take a model to compute; `connect` is made from features.
COSTLY = ("scores", "unconditioned", "features", "connect", "verify")


def needs(selector: str, *, within: str = "hardest") -> frozenset[str]:
    """Which costly arguments a selector of `SELECTORS` needs; ConfigError if unknown.

    within: that of STAFF; "spread" needs features, to cluster them.

    >>> sorted(needs("staff")), sorted(needs("random")), sorted(needs("d2"))
    (['scores', 'verify'], [], ['connect', 'scores'])
    """
    check_known("selector", selector, SELECTORS)
    asked = frozenset(COSTLY) & inspect.signature(SELECTORS[selector]).parameters.keys()
    return asked | {"features"} if selector == "staff" and within == "spread" else asked


__all__ = [
    "ALLOCATIONS",
    "COSTLY",
    "PRESETS",
    "SCORE",
    "SELECTORS",
    "TAKE",
    "WITHIN",
    "allocate",
    "choose_rows",
    "draw",
    "explain",
    "needs",
    "select_ccs",
    "select_d2",
    "select_ifd",
    "select_k_centre",
    "select_moderate",
    "select_random",
    "select_ranked",
    "select_staff",
    "stratify",
    "total_of",
    "weigh",
]
