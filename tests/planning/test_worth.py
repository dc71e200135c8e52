"""Ratio and break-even."""

from staff.planning.worth import worth


def test_break_even_rows_and_epochs():
    found = worth(keep=0.2, n=1000, epochs=3, tuning=3000.0, per_row=400.0, fixed=100.0)
    assert (found.saved, found.left) == (2400.0, 1900.0)
    # A row saves 0.8·3 = 2.4 and costs 0.4; 100 that do not grow are won back by 50 rows.
    assert found.rows == 50
    at = worth(keep=0.2, n=50, epochs=3, tuning=150.0, per_row=20.0, fixed=100.0)
    assert abs(at.left) < 1e-9
    # 500 of 2400: an epoch saves 800.
    assert found.epochs == 500 / 800


def test_reading_and_set_up():
    """No set-up is saved, and of reading what the coreset lacks, once whatever the epochs."""
    costs = {"per_row": 500.0, "fixed": 100.0, "reading": 100.0}  # reading is in per_row, too
    found = worth(keep=0.2, n=1000, epochs=3, tuning=3000.0, **costs)
    assert (found.saved, found.left) == (0.8 * 3100, 0.8 * 3100 - 600)
    at = worth(keep=0.2, n=1000, epochs=1, tuning=1000 * found.epochs, **costs)
    assert abs(at.left) < 1e-9


def test_a_coreset_of_so_many_rows_does_not_grow():
    found = worth(
        keep=0.2, n=1000, epochs=3, tuning=3000.0, per_row=400.0, fixed=100.0, grows=False
    )
    # 200 rows cost 600 whatever the others, which save 3 and cost 0.4 each: 700 in 2.6.
    assert found.rows == 270
    at = worth(keep=200 / 270, n=270, epochs=3, tuning=810.0, per_row=108.0, fixed=100.0)
    assert 0 <= at.left < 2.6


def test_what_never_pays():
    found = worth(keep=0.9, n=100, epochs=1, tuning=100.0, per_row=50.0, fixed=0.0)
    assert found.left == 100 - 90 - 50
    assert found.rows is None  # a row costs 0.5 and saves 0.1
    assert found.epochs > 1
    assert worth(keep=1.0, n=9, epochs=1, tuning=9.0, per_row=1.0, fixed=0.0).epochs is None
