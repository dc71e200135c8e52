from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from staff.errors import ConfigError
from staff.rng import keys_of_ids
from staff.selectors import select_ccs, select_random, select_ranked
from staff.selectors.compose import (
    Size,
    Wishes,
    check_wishes,
    choose_all,
    choose_one,
    remembering,
)
from staff.types import REASONS, Budget

N = 60
SCORES = np.round(np.random.default_rng(5).gamma(2.0, size=N), 2)
KEYS = keys_of_ids(map(str, range(N)))
GROUP_OF = np.arange(N) % 3 // 2  # two thirds 0, one third 1


def hardest(rows, total, seed):
    return select_ranked(scores=SCORES[rows], total=total, keys=KEYS[rows])


def random(rows, total, seed):
    return select_random(total=total, keys=KEYS[rows], seed=seed)


def ccs(rows, total, seed):
    return select_ccs(scores=SCORES[rows], total=total, keys=KEYS[rows], seed=seed, strata=7)


def reason_of(selection, row):
    return REASONS[selection.reason[row]]


def test_no_wish_changes_nothing():
    for choose in (hardest, random, ccs):
        plain, made = choose(np.arange(N), 20, 3), choose_one(choose, 20, Wishes(N), seed=3)
        assert made.rows.tolist() == plain.rows.tolist()
        assert made.reason.tolist() == plain.reason.tolist()
        assert (made.order is None) == (plain.order is None)


def test_include_and_exclude_by_hand():
    # Scores 5 4 3 2 1; row 0 never, row 4 always; of 3 rows two are left: 1 and 2.
    def choose(rows, total, seed):
        return select_ranked(scores=np.array([5.0, 4, 3, 2, 1])[rows], total=total)

    wishes = Wishes(5, include=np.array([4]), exclude=np.array([0]))
    made = choose_one(choose, 3, wishes, seed=0)
    assert made.rows.tolist() == [1, 2, 4]
    assert [reason_of(made, row) for row in range(5)] == [
        "excluded", "budget", "budget", "over-budget", "included",
    ]  # fmt: skip
    assert choose_one(choose, 1, wishes, seed=0).rows.tolist() == [4]
    assert choose_one(choose, 4, wishes, seed=0).rows.tolist() == [1, 2, 3, 4]
    with pytest.raises(ConfigError, match="0 rows cannot contain the 1 row to include"):
        choose_one(choose, 0, wishes, seed=0)
    with pytest.raises(ConfigError, match="5 rows cannot be made: only 4 rows may be in it"):
        choose_one(choose, 5, wishes, seed=0)
    scoreless = replace(wishes, rejected=np.array([1]))
    made = choose_one(choose, 3, scoreless, seed=0)
    assert made.rows.tolist() == [2, 3, 4]
    assert reason_of(made, 1) == "rejected"
    alone = Wishes(2, exclude=np.array([0]))
    with pytest.raises(ConfigError, match="2 rows cannot be made: only 1 row may be in it"):
        choose_one(choose, 2, alone, seed=0)


def test_quotas_by_hand():
    # 40 rows of group 0, 20 of group 1: of 12 rows 8 and 4, the hardest of each.
    made = choose_one(hardest, 12, Wishes(N, group=GROUP_OF), seed=0)
    for number, budget in ((0, 8), (1, 4)):
        members = np.flatnonzero(number == GROUP_OF)
        best = members[hardest(members, budget, 0).rows]
        assert np.intersect1d(made.rows, members).tolist() == best.tolist()


def test_budgets_of_the_groups_add_up_region_by_region_by_hand():
    def choose(rows, total, seed, equal=None):  # group 0 from region 0, group 1 from both
        count = np.array([total, 0] if rows[0] == 0 else [total - 1, 1])
        return replace(random(rows, total, seed), budget=Budget(count, total, equal))

    wishes = Wishes(N, group=GROUP_OF)
    made = choose_one(choose, 12, wishes, seed=0).budget
    assert (made.count.tolist(), made.total, made.equal) == ([11, 1], 12, None)
    equal = partial(choose, equal=np.array([3, 2]))
    assert choose_one(equal, 12, wishes, seed=0).budget.equal.tolist() == [6, 4]


def test_a_coreset_of_the_rows_to_include_alone():
    made = choose_one(random, 2, Wishes(2, include=np.arange(2), group=np.arange(2)), seed=0)
    assert (made.rows.tolist(), made.budget) == ([0, 1], None)


def test_the_rows_to_include_come_on_top_of_the_quotas():
    include = np.flatnonzero(GROUP_OF == 1)[:6]
    made = choose_one(random, 12, Wishes(N, include=include, group=GROUP_OF), seed=0)
    # 6 are left for 40 and 14 free rows: 4.4 and 1.6 places.
    chosen = np.setdiff1d(made.rows, include)
    assert np.bincount(GROUP_OF[chosen]).tolist() == [4, 2]


@pytest.mark.parametrize("choose", [hardest, random, ccs])
@pytest.mark.parametrize("group", [None, GROUP_OF])
def test_nested_coresets_nest(choose, group):
    sizes = {"t": Size(tokens=700), **{str(m): Size(rows=m) for m in (50, 3, 31, 30, 59)}}
    lengths = np.arange(N) + 1
    wishes = Wishes(N, include=np.array([7]), group=group)
    made = choose_all(choose, sizes, wishes, seed=1, lengths=lengths, nested=True)
    assert list(made) == list(sizes)
    assert lengths[made["t"].rows].sum() <= 700
    assert all(len(made[name].rows) == size.rows for name, size in sizes.items() if size.rows)
    for large, small in pairwise(sorted(made.values(), key=lambda s: -len(s.rows))):
        assert set(small.rows.tolist()) <= set(large.rows.tolist())


def test_quotas_of_nested_coresets_are_rounded_once_by_hand():
    # 76 and 14 rows. Of 9 places 7.6 and 1.4: 8 and 1. Of 4, 3.4 and 0.6: 3 and 1, while 4 of the
    # 9 would be 3.6 and 0.4.
    group = (np.arange(90) >= 76).astype(np.int64)
    scores = np.arange(90.0)

    def choose(rows, total, seed):  # other rows for odd sizes, so that nothing nests by itself
        take = "highest" if total % 2 else "lowest"
        return select_ranked(scores=scores[rows], total=total, take=take)

    def unordered(rows, total, seed):
        return replace(choose(rows, total, seed), order=None)

    sizes = {"large": Size(rows=9), "small": Size(rows=4), "tokens": Size(tokens=2)}
    how = {"seed": 0, "lengths": np.ones(90, np.int64)}
    for nested in (False, True):
        made = choose_all(unordered, sizes, Wishes(90, group=group), nested=nested, **how)
        assert np.bincount(group[made["large"].rows]).tolist() == [8, 1]
        assert np.bincount(group[made["small"].rows]).tolist() == [3, 1]
        inside = set(made["small"].rows.tolist()) <= set(made["large"].rows.tolist())
        assert inside == nested
        assert len(made["tokens"].rows) == 2
        inside = set(made["tokens"].rows.tolist()) <= set(made["small"].rows.tolist())
        assert inside == nested


def test_tokens_for_one_row():
    sizes, lengths = {"t": Size(tokens=7)}, np.full(N, 5)
    check_wishes(sizes, Wishes(N))  # known when it is chosen
    assert len(choose_all(hardest, sizes, Wishes(N), seed=0, lengths=lengths)["t"].rows) == 1


def test_a_method_with_an_order_runs_once_for_all_sizes():
    calls = []

    def choose(rows, total, seed):
        calls.append(total)
        return hardest(rows, total, seed)

    sizes = {"a": Size(rows=5), "b": Size(rows=50), "c": Size(rows=20)}
    made = choose_all(choose, sizes, Wishes(N), seed=0)
    assert calls == [50]
    for name, size in sizes.items():
        assert made[name].rows.tolist() == hardest(np.arange(N), size.rows, 0).rows.tolist()


def test_what_is_remembered_is_of_the_same_rows_and_seed():
    chosen = remembering(random)
    rows = np.arange(N)
    assert chosen(rows, 9, 0).rows.tolist() == random(rows, 9, 0).rows.tolist()
    assert chosen(rows, 9, 1).rows.tolist() == random(rows, 9, 1).rows.tolist()
    odd = rows[::2]
    assert chosen(odd, 9, 0).rows.tolist() == random(odd, 9, 0).rows.tolist()
    assert chosen(rows, 30, 0).rows.tolist() == random(rows, 30, 0).rows.tolist()
