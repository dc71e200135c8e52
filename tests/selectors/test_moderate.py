import pytest

from staff.errors import DataError
from staff.selectors import select_moderate


def test_one_centre_by_hand():
    # Mean 2, distances 2, 1, 0, 1, 6, 4; the median of 0 1 1 2 4 6 is 1.5. |d - 1.5| is
    # 0.5, 0.5, 1.5, 0.5, 4.5, 2.5: rows 0, 1 and 3, then 2.
    features = [[0, 0], [1, 0], [2, 0], [3, 0], [8, 0], [-2, 0]]
    assert select_moderate(features=features, total=3).rows.tolist() == [0, 1, 3]
    assert select_moderate(features=features, total=4).order.tolist() == [0, 1, 3, 2]


def test_classes_have_their_own_centres_by_hand():
    # a: 0, 2, 4 (centre 2: distances 2, 0, 2); b: 100, 101, 105 (centre 102: 2, 1, 3).
    # Median of 0 1 2 2 2 3 is 2: rows 0, 2 and 3 lie on it.
    features = [[0], [2], [4], [100], [101], [105]]
    labels = ["a", "a", "a", "b", "b", "b"]
    assert select_moderate(features=features, labels=labels, total=3).rows.tolist() == [0, 2, 3]
    # One centre for all would be 52, the distances 52, 50, 48, 48, 49, 53, their median 49.5.
    assert select_moderate(features=features, total=2).rows.tolist() == [1, 4]


def test_labels_of_another_length():
    with pytest.raises(DataError, match=r"labels must be 2, one per row; got shape \(1,\)"):
        select_moderate(features=[[1.0], [2.0]], labels=["a"], total=1)
