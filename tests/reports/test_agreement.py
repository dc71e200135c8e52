import numpy as np
import pytest

from staff.reports.agreement import rank_correlation, ranks


def test_by_hand():
    # Ranks 1 2 3 4 5 against 2 1 4 3 5: squared differences 1 1 1 1 0, so
    # 1 - 6·4 / (5·24) = 0.8; Fisher: tanh(1.0986 ± 1.9600·sqrt(1.32 / 2)).
    found = rank_correlation(np.array([1.0, 2, 30, 40, 50]), np.array([0.2, 0.1, 0.4, 0.3, 9]))
    assert found.value == pytest.approx(0.8)
    assert found.interval == pytest.approx((-0.4571, 0.9908), abs=1e-4)
    assert found.pairs == 5


def test_ties_share_their_rank():
    # Ranks 1.5 1.5 3 against 1 2 3: the covariance of deviations (-.5 -.5 1) and (-1 0 1) is
    # 1.5, the squares sum to 1.5 and 2: 1.5 / sqrt(3).
    assert ranks(np.array([4.0, 4, 8])).tolist() == [1.5, 1.5, 3]
    found = rank_correlation(np.array([4.0, 4, 8]), np.array([1.0, 2, 3]))
    assert found.value == pytest.approx(1.5 / np.sqrt(3))
    assert found.interval is None


def test_no_correlation_without_spread():
    assert rank_correlation(np.array([1.0, 1]), np.array([1.0, 2])) is None
    assert rank_correlation(np.array([1.0]), np.array([1.0])) is None
    perfect = rank_correlation(np.arange(9.0), -np.arange(9.0))
    assert (perfect.value, perfect.interval) == (-1.0, None)
