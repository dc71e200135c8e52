from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from staff.reports.labels import LINE, beside, spread

heights = st.lists(st.floats(0, 300), min_size=1, max_size=14)


@settings(deadline=None)
@given(heights)
def test_words_keep_apart_in_order_and_on_the_chart(wished):
    placed = spread(wished, top=0, bottom=300)
    order = sorted(range(len(wished)), key=lambda i: wished[i])
    pairs = pairwise(placed[i] for i in order)
    assert all(b - a >= LINE - 1e-6 for a, b in pairs)
    assert min(placed) >= 0
    assert max(placed) <= 300 + 1e-6


def test_where_there_is_room_nothing_moves():
    assert spread([200.0, 20.0, 100.0], top=0, bottom=300) == [200.0, 20.0, 100.0]


def test_words_do_not_cover_each_other():
    # Two points so close that words right of both would touch.
    (a, b), (c, d) = beside([(50, 50), (52, 52)], ["one", "two"], [], width=200, height=100)
    assert abs(b - d) >= LINE or a + 20 <= c or c + 20 <= a


def test_words_stay_inside():
    [(left, _)] = beside([(195, 50)], ["perplexity"], [], width=200, height=100)
    assert 0 <= left <= 200 - 6 * len("perplexity")
    [(_, height)] = beside(
        [(50, 99)], ["one"], [(x, 99) for x in range(200)], width=200, height=100
    )
    assert height <= 100
    assert beside([(1, 5)], ["longer than the chart"], [], width=50, height=10) == [(0.0, 5)]
