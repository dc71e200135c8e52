import numpy as np
import pytest

from staff.runs.scored import score_facts, score_of


@pytest.mark.filterwarnings("error")
def test_a_ratio_to_a_loss_of_zero_is_no_score():
    """Of a row that is on a list; infinite, no manifest that has it could be read again."""
    score = score_of({"method": "ifd"})
    table = {"loss": [1.0, 3.0, 0.0, np.nan], "unconditioned_loss": [2.0, 0.0, 0.0, 1.0]}
    values = score.values(table)
    np.testing.assert_array_equal(values, [0.5, np.nan, np.nan, np.nan])
    found = score_facts(score, values, {"0.5": np.array([0, 1]), "0.1": np.array([1])})
    half = {"lowest": 0.5, "median": 0.5, "highest": 0.5}
    assert found == {"column": "ifd", "all": half, "chosen": {"0.5": half, "0.1": None}}
