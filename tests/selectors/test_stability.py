import numpy as np
import pytest

from staff.errors import ConfigError
from staff.runs.facts import stability_facts
from staff.selectors import select_random
from staff.selectors.compose import Wishes, choose_one
from staff.selectors.stability import stability


def test_by_hand():
    # {0,1}, {1,2}, {0,1} of 4: 1/3, 1, 1/3, mean 5/9. Chance: overlap 2·2/4 = 1 of 3 rows.
    found = stability([np.array(rows) for rows in ([0, 1], [1, 2], [0, 1])], n=4)
    assert found.jaccard == pytest.approx(5 / 9)
    assert found.chance == pytest.approx(1 / 3)


def test_random_draws_are_at_chance():
    coresets = [select_random(n=20_000, total=4000, seed=seed).rows for seed in range(4)]
    found = stability(coresets, n=20_000)
    assert found.jaccard == pytest.approx(found.chance, abs=0.01)
    assert found.chance == pytest.approx(0.2 / 1.8)


def test_chance_has_the_same_rows_to_include_and_to_choose_from():
    listed, excluded = np.arange(200), np.arange(200, 1200)
    wishes = Wishes(n=2000, include=listed, exclude=excluded)

    def draw(rows, total, seed):
        return select_random(keys=rows, total=total, seed=seed)

    drawn = [{"x": choose_one(draw, 400, wishes, seed=seed)} for seed in range(6)]
    found = stability_facts(drawn, wishes)["x"]
    # 200 rows in common, and of 200 among 800 on average 50: 250 of 550 rows.
    assert found["chance"] == pytest.approx(250 / 550)
    assert found["jaccard"] == pytest.approx(found["chance"], abs=0.02)


def test_one_coreset_has_none():
    with pytest.raises(ConfigError, match="at least two seeds"):
        stability([np.array([0])], n=4)
