from staff.reports.columns import Column, layout

NUMBERS = Column("n", ["1", "1,000"])


def test_numbers_stand_right_and_words_left():
    assert layout([Column("name", ["a", "bcd"], left=True), NUMBERS], 80) == [
        "  name      n",
        "  a         1",
        "  bcd   1,000",
    ]


def test_a_table_that_does_not_fit_is_no_table_unless_forced():
    assert layout([NUMBERS], 6) == []
    assert len(layout([NUMBERS], 6, force=True)) == 3
    assert len(layout([NUMBERS], 7)) == 3
