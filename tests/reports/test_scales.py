import pytest

from staff.reports.scales import Domain, domain_of, scale_of


def rows(*values, metric="loss", half=0.1, **whole):
    own = [{"metric": metric, "method": "staff", "keep": 0.1, "value": v, "low": v - half,
            "high": v + half} for v in values]  # fmt: skip
    return own + [
        {"metric": metric, "method": m, "keep": None, "value": v} for m, v in whole.items()
    ]


def test_all_values_and_usual_intervals_are_on_the_axis():
    domain, lines = scale_of(rows(1.0, 2.0, full=0.9, untuned=9.0))
    assert lines == {"all rows": 0.9, "untuned": 9.0}
    assert all(map(domain.holds, (0.9, 1.0, 2.0, 0.94, 2.1)))
    assert not domain.holds(9.0)  # it would leave the methods a fifth of the chart
    assert domain.high < 2.3


def test_one_wide_interval_does_not_flatten_the_others():
    domain = domain_of([1.0, 2.0, 3.0], [(0.9, 1.1), (1.9, 2.1), (-97.0, 103.0)])
    assert -1 < domain.low < 0.9
    assert 3.1 < domain.high < 5
    assert domain.clip(103.0) == domain.high


def test_no_room_for_impossible_values():
    assert scale_of(rows(0.0, metric="exact", half=0))[0] == Domain(0.0, 1.0)
    assert scale_of(rows(5.0, metric="rougeL", half=40))[0].low == 0.0
    assert scale_of(rows(95.0, metric="bleu", half=40))[0].high == 100.0


@pytest.mark.parametrize("value", [0.0, 1e-12, -3.0, 1e6])
def test_equal_values_have_an_axis(value):
    domain = domain_of([value, value], [(None, None), (value, value)])
    assert domain.low < value < domain.high
    assert 0 <= domain.share(value) <= 1
