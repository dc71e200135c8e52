"""Selectors: arrays in, a `Selection` out. NumPy only: importing this does not import torch.

A selector is a function of keyword-only arguments. It asks for what it needs by their
names, and the pipeline computes only that (`needs`). To add one: write the function and
put its line into `SELECTORS`.
"""

import inspect
from collections.abc import Callable
from typing import Any

from staff.selectors.arguments import check_known
from staff.selectors.budgets import ALLOCATIONS, allocate
from staff.selectors.draw import WITHIN, draw
from staff.selectors.ranking import select_random
from staff.selectors.regions import stratify
from staff.selectors.staff import PRESETS, select_staff, total_of
from staff.selectors.verification import choose_rows, weigh
from staff.selectors.why import explain

SELECTORS: dict[str, Callable[..., Any]] = {
    "random": select_random,
    "staff": select_staff,
}

COSTLY = ("scores", "features", "verify")  # arguments that take a model to compute


def needs(selector: str) -> frozenset[str]:
    """Which costly arguments a selector of `SELECTORS` asks for; ConfigError if unknown.

    >>> sorted(needs("staff")), sorted(needs("random"))
    (['scores', 'verify'], [])
    """
    check_known("selector", selector, SELECTORS)
    return frozenset(COSTLY) & inspect.signature(SELECTORS[selector]).parameters.keys()


__all__ = [
    "ALLOCATIONS",
    "PRESETS",
    "SELECTORS",
    "WITHIN",
    "allocate",
    "choose_rows",
    "draw",
    "explain",
    "needs",
    "select_random",
    "select_staff",
    "stratify",
    "total_of",
    "weigh",
]
