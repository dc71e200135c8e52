import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from staff.errors import ConfigError
from staff.selectors import select_ccs
from staff.selectors.ccs import stratify_ccs
from staff.types import REASONS

CASES = json.loads((Path(__file__).parents[1] / "data" / "golden_ccs.json").read_text())


def test_by_hand():
    # Ten scores, cut 0.2: 90 and 99 leave. The pool spans [0, 8.0008]; two strata of width
    # 4.0004: {0, 1, 2, 3, 4} and {5, 7, 8}. m = 7: smallest first ⌊7/2⌋ = 3, then 4 of 5.
    scores = [0, 1, 2, 3, 4, 5, 7, 8, 90, 99]
    coreset = select_ccs(scores=scores, total=7, cut=0.2, strata=2)
    assert coreset.regions.of_row.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, -1, -1]
    assert coreset.budget.count.tolist() == [4, 3]
    assert set(coreset.rows.tolist()) >= {5, 6, 7}
    assert len(coreset.rows) == 7
    assert [REASONS[r] for r in coreset.reason[8:]] == ["cut", "cut"]
    assert coreset.method == "ccs"


def test_a_lower_edge_belongs_to_its_stratum_by_hand():
    # [0, 4.0004] in four: edges 0, 1.0001, 2.0002, 3.0003. STAFF's own regions would put
    # 1 into the first and, with [0, 4] in four, an exact edge into the lower region.
    assert stratify_ccs([0, 1.0001, 2, 4], strata=4, cut=0).of_row.tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize(
    "scores", [[-3.0, -2.0, -1.0], [-2.0, -1.0, 0.0], [5.0, 5.0, 5.0], [-1.7e308, 0.0, 1.7e308]]
)
def test_no_row_is_lost_at_the_top(scores):
    assert stratify_ccs(scores, strata=3, cut=0).of_row.min() == 0


def test_more_than_the_pool_takes_the_lowest_of_the_cut():
    coreset = select_ccs(scores=np.arange(10.0), total=8, cut=0.4)
    assert coreset.rows.tolist() == list(range(8))
    # 0.29·100 is 28.999… in binary and 29 as written.
    assert np.count_nonzero(stratify_ccs(np.arange(100.0), cut=0.29).of_row < 0) == 29


def test_errors():
    with pytest.raises(ConfigError, match="strata must be at least 1"):
        select_ccs(scores=[1.0], total=1, strata=0)
    with pytest.raises(ConfigError, match="cut must be at least 0 and below 1"):
        select_ccs(scores=[1.0], total=1, cut=1)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_the_released_code(case):
    scores = np.array(case["scores"])
    coreset = select_ccs(
        scores=scores, total=case["total"], cut=case["hard_cutoff"], strata=case["strata"]
    )
    regions = coreset.regions
    assert np.flatnonzero(regions.of_row >= 0).tolist() == sorted(case["pool_rows"])
    # Empty strata have vanished; the others are in the same order.
    assert regions.sizes.tolist() == [c for c in case["count_per_stratum"] if c]
    ours, theirs = defaultdict(Counter), defaultdict(Counter)
    for size, budget in zip(regions.sizes.tolist(), coreset.budget.count.tolist(), strict=True):
        ours[size][budget] += 1
    for size, budget in zip(case["count_per_stratum"], case["budget_per_stratum"], strict=True):
        if size:
            theirs[size][budget] += 1
    assert ours == theirs
