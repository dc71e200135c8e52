import pytest

from staff.errors import ConfigError, DataError
from staff.selectors import select_ifd
from staff.types import REASONS

CONDITIONED = [1.0, 3.0, 4.5, 8.0, 2.0]
ALONE = [2.0, 4.0, 5.0, 4.0, 1.0]  # ratios 0.5, 0.75, 0.9, 2, 2


def select(total, **options):
    return select_ifd(scores=CONDITIONED, unconditioned=ALONE, total=total, **options)


def test_by_hand():
    # 2 and 2 exceed 1 and leave; then the highest first: 0.9, 0.75, 0.5.
    assert select(2).order.tolist() == [2, 1]
    assert [REASONS[r] for r in select(2).reason] == [
        "over-budget", "budget", "budget", "cut", "cut",
    ]  # fmt: skip


def test_more_than_is_left_by_hand():
    coreset = select(4, keys=[5, 4, 3, 2, 1])
    assert coreset.order.tolist() == [2, 1, 0, 4]  # of the two 2s, row 4 has the smaller key
    assert REASONS[coreset.reason[4]] == "top-up"


def test_exactly_one_stays():
    assert select_ifd(scores=[2.0, 1.0], unconditioned=[2, 2], total=1).rows.tolist() == [0]


def test_errors():
    with pytest.raises(ConfigError, match="between 1 and 5"):
        select(6)
    with pytest.raises(DataError, match=r"row 1 is 0\.0, not above 0"):
        select_ifd(scores=[1, 1], unconditioned=[1, 0], total=1)
    with pytest.raises(DataError, match=r"two losses per row; got \(2,\) and \(1,\)"):
        select_ifd(scores=[1, 1], unconditioned=[1], total=1)
