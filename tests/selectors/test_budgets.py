from dataclasses import replace

import numpy as np
import pytest

from staff.errors import ConfigError
from staff.selectors import allocate
from staff.selectors.verification import student_95
from staff.types import Regions, Verification


def regions_of(*sizes, cut=0):
    of_row = np.concatenate([np.repeat(np.arange(len(sizes)), sizes), np.full(cut, -1)])
    edges = np.stack([np.arange(len(sizes)), np.arange(len(sizes)) + 1], axis=1).astype(float)
    return Regions(of_row=of_row, edges=edges)


def ratios_of(*ratio):
    K = len(ratio)
    return Verification(
        rows=np.empty(0, np.int64),
        ratio=np.array(ratio, dtype=float),
        count=np.zeros(K, np.int64),
        interval=np.full((K, 2), np.nan),
        flagged=np.zeros(K, bool),
    )


NO = np.nan  # not verified


def test_shares_by_hand():
    # Sizes 2 (unverified), 4, 6; V = 3 and 1; m = 6. Smallest first:
    #   B_1: min(2, ⌊6/3⌋) = 2, left 4
    #   B_2: min(4, ⌊4·3/(3+1)⌋) = 3, left 1
    #   B_3: min(6, ⌊1·1/1⌋) = 1, left 0
    budget = allocate(regions_of(2, 4, 6), ratios_of(NO, 3, 1), total=6, allocation="shares")
    assert budget.count.tolist() == [2, 3, 1]
    assert budget.top_up == 0


def test_an_unverified_region_between_verified_ones_counts_with_their_mean_by_hand():
    # Sizes 4 (V = 1), 10 (unverified, counts with 2) and 20 (V = 3), m = 8:
    #   B_1: ⌊8·1/(1+2+3)⌋ = 1, left 7;  B_2: ⌊7/2⌋ = 3, left 4;  B_3: ⌊4·3/3⌋ = 4
    assert allocate(regions_of(4, 10, 20), ratios_of(1, NO, 3), total=8).count.tolist() == [1, 3, 4]


def test_shrunk_by_hand():
    # ln 1 and ln 4 have variance 0.96, less than the mean of s² = 1: chance alone would make such
    # a difference, so of 40 both get 20. As they are, the ratios would give 8 and 32.
    ratios, upper = ratios_of(1, 4), 1 + student_95(9)
    known = replace(ratios, count=np.full(2, 10), interval=np.array([[0, upper], [0, 4 * upper]]))
    regions = regions_of(40, 50)
    assert allocate(regions, known, total=40, allocation="shrunk").count.tolist() == [20, 20]
    assert allocate(regions, known, total=40, allocation="shares").count.tolist() == [8, 32]


def test_paper_by_hand():
    # The same, V scaled to mean 1 over the verified: (3, 1)/2 = 1.5 and 0.5.
    #   B_1: min(2, ⌊6/3⌋) = 2, left 4
    #   B_2: min(4, 4, ⌊4·1.5/2⌋) = 3, left 1
    #   B_3: min(6, 1, ⌊1·0.5/1⌋) = 0, and 1 is left to the top-up
    budget = allocate(regions_of(2, 4, 6), ratios_of(NO, 3, 1), total=6, allocation="paper")
    assert budget.count.tolist() == [2, 3, 0]
    assert budget.top_up == 1


def test_paper_never_spends_more_than_is_left_by_hand():
    # Sizes 6 and 5, V = 9 and 1, scaled 1.8 and 0.2; m = 4. Smallest first:
    #   B_2: ⌊4·0.2/2⌋ = 0, left 4
    #   B_1: min(6, 4, ⌊4·1.8/1⌋ = 7) = 4
    budget = allocate(regions_of(6, 5), ratios_of(9, 1), total=4, allocation="paper")
    assert budget.count.tolist() == [4, 0]


def test_paper_and_shares_agree_on_equal_ratios():
    regions = regions_of(12, 15, 20, 30)
    for total in range(1, 78):
        shares, paper = (
            allocate(regions, ratios_of(2, 2, 2, 2), total=total, allocation=a).count.tolist()
            for a in ("shares", "paper")
        )
        assert shares == paper


def test_paper_is_scaled_to_the_regions_that_have_rows_by_hand():
    # A quota's rows lie in the last three regions alone. Their ratios are equal, and so are the
    # budgets, whatever the ratios of the others.
    for elsewhere in (0.5, 8):
        ratios = ratios_of(elsewhere, elsewhere, 2, 2, 2)
        budget = allocate(regions_of(0, 0, 90, 100, 110), ratios, total=60, allocation="paper")
        assert budget.count.tolist() == [0, 0, 20, 20, 20]
    # Of which none was verified: equal shares.
    budget = allocate(regions_of(0, 3, 5), ratios_of(8, NO, NO), total=4, allocation="paper")
    assert budget.count.tolist() == [0, 2, 2]


@pytest.mark.parametrize("allocation", ["shares", "paper"])
def test_a_large_unverified_region_gets_its_equal_share_by_hand(allocation):
    # Sizes 40, 50 and 60, the last unverified; V = 3 and 1; m = 60. It counts with their mean, 2:
    #   B_1: ⌊60·3/(3+1+2)⌋ = 30, left 30
    #   B_2: ⌊30·1/(1+1)⌋ = 15, left 15, or as the paper has it ⌊30·0.5/2⌋ = 7, left 23
    #   B_3: what is left
    regions = regions_of(40, 50, 60)
    budget = allocate(regions, ratios_of(3, 1, NO), total=60, allocation=allocation)
    assert budget.count.tolist() == ([30, 15, 15] if allocation == "shares" else [30, 7, 23])
    # With equal ratios every region gets an equal share, whichever is not verified.
    for place in range(3):
        ratio = np.insert([2.0, 2.0], place, NO)
        budget = allocate(regions, ratios_of(*ratio), total=60, allocation=allocation)
        assert budget.count.tolist() == [20, 20, 20]


def test_saturated_regions_roll_on_by_hand():
    # m = 12 over sizes 1, 2, 20, all unverified: ⌊12/3⌋ = 4 -> 1; ⌊11/2⌋ = 5 -> 2; 9.
    budget = allocate(regions_of(1, 2, 20), ratios_of(NO, NO, NO), total=12)
    assert budget.count.tolist() == [1, 2, 9]


def test_equal_sizes_go_by_lower_score_by_hand():
    # ⌊5/2⌋ = 2 for the region of lower scores, ⌊3/1⌋ = 3 for the other.
    assert allocate(regions_of(4, 4), ratios_of(NO, NO), total=5).count.tolist() == [2, 3]


def test_multiplied_before_divided_by_hand():
    # V = 1 of 1 + 48, m = 49: (49·1)/49 is 1, but 1/49 is rounded down and 49·(1/49) is 0.99…
    assert 49 * (1 / 49) < 1
    assert allocate(regions_of(60, 70), ratios_of(1, 48), total=49).count.tolist() == [1, 48]


def test_total_larger_than_the_pool_takes_all_of_it():
    for ratios in (ratios_of(NO, NO), ratios_of(99, 1)):
        budget = allocate(regions_of(3, 2, cut=4), ratios, total=7)
        assert budget.count.tolist() == [3, 2]
        assert budget.top_up == 2


def test_ratio_zero_gets_nothing_and_does_not_break_the_rest():
    # 4 of V = 0, 5 of V = 2; m = 4: ⌊4·0/2⌋ = 0, then ⌊4·2/2⌋ = 4.
    assert allocate(regions_of(4, 5), ratios_of(0, 2), total=4).count.tolist() == [0, 4]
    assert allocate(regions_of(4, 5), ratios_of(1e-300, 1e300), total=4).count.tolist() == [0, 4]
    # All zero: nobody is harder than anybody else, so equal shares.
    assert allocate(regions_of(4, 5), ratios_of(0, 0), total=4).count.tolist() == [2, 2]


@pytest.mark.parametrize("allocation", ["shares", "paper"])
@pytest.mark.parametrize("scale", [1e-300, 1e-3, 1e3, 1e300, 1.6e308])
def test_the_scale_of_the_ratios_does_not_matter(allocation, scale):
    regions, ratio = regions_of(2, 20, 30, 40), np.array([NO, 0.3, 0.5, 1.0])
    for total in (5, 33, 70):
        plain = allocate(regions, ratios_of(*ratio), total=total, allocation=allocation)
        scaled = allocate(regions, ratios_of(*(scale * ratio)), total=total, allocation=allocation)
        # Scaling rounds each ratio once more, which may move one floor.
        assert np.abs(plain.count - scaled.count).max() <= 1


@pytest.mark.parametrize("total", [0, -1, 6])
def test_total_outside_the_set(total):
    with pytest.raises(ConfigError, match=rf"total must be between 1 and 5.*got {total}"):
        allocate(regions_of(3, 2), ratios_of(NO, NO), total=total)


def test_total_is_a_count():
    with pytest.raises(ConfigError, match=r"whole number of rows; got 0\.5"):
        allocate(regions_of(3, 2), ratios_of(NO, NO), total=0.5)


def test_unknown_allocation():
    with pytest.raises(ConfigError, match="unknown allocation 'share'; did you mean 'shares'"):
        allocate(regions_of(3, 2), ratios_of(NO, NO), total=1, allocation="share")
