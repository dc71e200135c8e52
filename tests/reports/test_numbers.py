import pytest

from staff.reports.numbers import brief, duration, operations, significant


@pytest.mark.parametrize(
    ("words", "value", "told"),
    [
        (duration, 60, "1 min 00 s"),
        (duration, 75.6, "1 min 16 s"),
        (duration, 3599.4, "59 min 59 s"),
        (duration, 3599.6, "1 h 00 min"),  # and never 60 min
        (brief, 0.9994, "999 ms"),
        (brief, 0.9996, "1.0 s"),  # nor 1000 ms
        (brief, 0.9994e-3, "999 µs"),
        (brief, 0.9996e-3, "1.0 ms"),
        (brief, 9.4e-3, "9.4 ms"),
        (brief, 9.96e-3, "10 ms"),
        (significant, 999.4, "999"),
        (significant, 999.6, "1,000"),
        (significant, -12345.6, "-12,346"),
        (operations, 1000, "1.00 kFLOP"),
    ],
)
def test_numbers_at_their_limits(words, value, told):
    assert words(value) == told
