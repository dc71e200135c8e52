import numpy as np
import pytest

from staff.errors import ConfigError
from staff.selectors import select_random, select_ranked
from staff.selectors.tokens import fit_tokens


def test_by_hand():
    # Lengths by falling score: 4, 3, 2, 5. Sums 4, 7, 9, 14.
    lengths = np.array([2, 4, 5, 3])

    def select(total):
        return select_ranked(scores=[2.0, 4.0, 1.0, 3.0], total=total)

    for tokens, rows in ((4, 1), (6, 1), (7, 2), (9, 3), (13, 3), (14, 4), (10**9, 4)):
        assert len(fit_tokens(select, lengths=lengths, tokens=tokens).rows) == rows
    with pytest.raises(ConfigError, match=r"3 tokens are too few: .*1 row, has 4"):
        fit_tokens(select, lengths=lengths, tokens=3)
    with pytest.raises(ConfigError, match=r"^1 token is too few: "):
        fit_tokens(select, lengths=lengths, tokens=1)
    with pytest.raises(ConfigError, match=r"8 tokens are too few: .*3 rows, has 9"):
        fit_tokens(select, lengths=lengths, tokens=8, least=3)
    assert len(fit_tokens(select, lengths=lengths, tokens=99, most=2).rows) == 2


def test_one_row_more_does_not_fit():
    random = np.random.default_rng(0)
    for n in (1, 2, 50, 1000):
        lengths = random.integers(1, 400, n)
        asked = []

        def select(total, n=n, asked=asked):
            asked.append(total)
            return select_random(n=n, total=total)

        for tokens in random.integers(lengths.max(), lengths.sum() + 9, 20).tolist():
            asked.clear()
            found = fit_tokens(select, lengths=lengths, tokens=tokens)
            assert lengths[found.rows].sum() <= tokens
            assert len(asked) <= 2 * np.log2(n) + 3
            m = len(found.rows)
            assert m == n or lengths[select_random(n=n, total=m + 1).rows].sum() > tokens
