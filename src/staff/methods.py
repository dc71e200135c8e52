"""From the name of a method to a function that chooses rows, given what was computed."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from staff.runs.config import SelectConfig
from staff.selectors import SCORE, SELECTORS, allocate, draw, needs
from staff.selectors.ccs import stratify_ccs
from staff.selectors.compose import Choose
from staff.selectors.draw import CUT, OVER_BUDGET
from staff.selectors.regions import below_cut, regions_for
from staff.selectors.staff import Verify, measure
from staff.selectors.verification import unverified
from staff.types import Bools, Floats, Ints, Keys, Regions, Selection, Verification, read_only

OUTSIDE = -2  # the region of a row that the method does not choose from


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a method may need; n usable rows. What it does not need may be missing.

    keys: uint64 [n]. scores: the small model's columns, float64 [n] each. features: float32
    [n, D]. verify: rows -> the target's scores. against: rows -> those they are divided by, if
    not the column's. candidates: bool [n], rows it may be asked for.
    """

    keys: Keys
    scores: Mapping[str, Floats]
    features: NDArray[np.float32] | None = None
    verify: Verify | None = None
    against: Verify | None = None
    candidates: Bools | None = None


@dataclass(frozen=True, slots=True)
class Method:
    """A method ready to choose, and its regions of all n rows if it has any.

    seeded: whether what it chooses depends on a seed.
    """

    name: str
    choose: Choose
    seeded: bool = True
    regions: Regions | None = None
    verification: Verification | None = None

    def complete(self, selection: Selection) -> Selection:
        """A coreset of this method under its name, with the regions of all rows."""
        reason = selection.reason
        if self.regions is not None:
            # A row that no call had a choice of (a group without a place, a smaller nested
            # coreset) is not called cut by any.
            missed = (self.regions.of_row == -1) & (reason == OVER_BUDGET)
            reason = read_only(np.where(missed, CUT, reason).astype(np.int8))
        return replace(
            selection,
            method=self.name,
            reason=reason,
            regions=self.regions,
            verification=self.verification,
        )


def wanted_by(config: SelectConfig) -> frozenset[str]:
    """What the selection needs that takes a model to compute (`selectors.COSTLY`)."""
    return needs(config.method, within=config.within)


def score_column(config: SelectConfig) -> str | None:
    """The small model's column that the method goes by; None if it goes by no score."""
    return config.difficulty if config.method in ("ccs", "d2") else SCORE.get(config.method)


def prepare(config: SelectConfig, inputs: Inputs, *, free: Bools) -> Method:
    """Do what a method does once for all coresets.

    free: bool [n], the rows there is a choice of. STAFF and CCS cut and stratify these, and
    STAFF verifies, once: quotas and smaller coresets then share the regions and their ratios.
    """
    if config.method in ("staff", "ccs"):
        return _by_region(config, inputs, free)
    select = SELECTORS[config.method]
    parameters = inspect.signature(select).parameters

    def choose(rows: Ints, total: int, seed: int) -> Selection:
        offered = _offered(config, inputs, rows, seed)
        given = {name: make() for name, make in offered.items() if name in parameters}
        chosen: Selection = select(total=total, **given)
        return chosen

    return Method(config.method, choose, seeded="seed" in parameters)


def _offered(
    config: SelectConfig, inputs: Inputs, rows: Ints, seed: int
) -> dict[str, Callable[[], Any]]:
    """Every argument a selector can ask for by its name, made when it does."""

    def features() -> NDArray[np.float32]:
        assert inputs.features is not None
        return inputs.features[rows]

    return {
        "scores": lambda: inputs.scores[score_column(config) or ""][rows],
        "unconditioned": lambda: inputs.scores["unconditioned_loss"][rows],
        "features": features,
        "connect": lambda: partial(_connect, features(), config.neighbours),
        "keys": lambda: inputs.keys[rows],
        "seed": lambda: seed,
        "take": lambda: config.take,
        "mislabel_ratio": lambda: config.cut,
        "gamma": lambda: config.gamma,
    }


def _connect(features: NDArray[np.float32], k: int, rows: Ints) -> tuple[Ints, NDArray[Any]]:
    from staff.scores.neighbours import nearest  # faiss

    return nearest(features[rows], k)


def _cluster(features: NDArray[np.float32], count: int, seed: int) -> Ints:
    from staff.scores.neighbours import clusters  # faiss

    return clusters(features, count, seed=seed)


def _by_region(config: SelectConfig, inputs: Inputs, free: Bools) -> Method:
    """STAFF and CCS: regions and ratios once, then a budget and a draw from any of the rows."""
    scores, keys = inputs.scores[score_column(config) or ""], inputs.keys
    among = np.flatnonzero(free)
    if config.method == "ccs":
        allocation, within = "shares", "random"
        strata = regions_for(config.regions)
        pool = stratify_ccs(scores[among], strata=strata, cut=config.cut, keys=keys[among])
        ratios = unverified(pool.count)
    else:
        allocation, within = config.allocation, config.within
        verify, against = inputs.verify, inputs.against
        assert verify is not None
        left = below_cut(len(among), config.cut)
        pool, ratios = measure(
            scores[among],
            lambda rows: verify(among[rows]),
            against=None if against is None else lambda rows: against(among[rows]),
            seed=config.seed,
            keys=keys[among],
            candidates=None if inputs.candidates is None else inputs.candidates[among],
            regions=regions_for(config.regions, left),
            stratify_by=config.stratify_by,
            verify_per_region=config.verify_per_region,
            verify_tolerance=config.verify_tolerance,
            verify_cap=config.verify_cap,
            cut=config.cut,
        )
    groups = np.zeros(len(free), np.int64)
    if within == "spread":
        assert inputs.features is not None
        by_key = among[np.argsort(keys[among], kind="stable")]  # k-means goes by the rows' order
        groups[by_key] = _cluster(inputs.features[by_key], config.clusters, config.seed)
    of_row = np.full(len(free), OUTSIDE, np.int64)
    of_row[among] = pool.of_row
    regions = Regions(of_row=read_only(of_row), edges=pool.edges)

    def choose(rows: Ints, total: int, seed: int) -> Selection:
        part = Regions(of_row=of_row[rows], edges=pool.edges)
        budget = allocate(part, ratios, total=total, allocation=allocation)
        equal = allocate(part, unverified(part.count), total=total)
        budget = replace(budget, equal=equal.count)
        return draw(
            scores[rows],
            part,
            budget,
            within=within,
            seed=seed,
            keys=keys[rows],
            groups=groups[rows],
        )

    verification = replace(ratios, rows=read_only(among[ratios.rows]))
    return Method(config.method, choose, regions=regions, verification=verification)
