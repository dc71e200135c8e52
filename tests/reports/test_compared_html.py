"""report.html of a comparison: what it says, that it is small and asks for nothing."""

import re

import pytest

from staff.reports.compared_html import render_comparison_page
from staff.reports.intervals import _references
from staff.reports.scales import Domain

EVERY = (
    *("staff", "random", "ccs", "d2", "el2n", "entropy", "grand", "ifd", "k-centre", "length"),
    *("loss", "moderate", "perplexity"),
)


def words_of(page):
    page = re.sub(r"<(style|script)>.*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def figures_of(page):
    return re.findall(r'<div class="(wide|narrow)"><svg role="img" aria-label="([^"]*)"', page)


def test_what_a_person_asks_of_a_comparison_is_there(make_compared):
    page = words_of(render_comparison_page(make_compared(leaks={"rows": 3, "of": 90})))
    for words in (
        "Compared with random 4 · 0 · 4 wins · ties · losses",
        "Methods 3 at 2 sizes",
        "Seeds 3 of selection and tuning",
        "Test items 90",
        "Warning: 3 of 90 test prompts (3.33 %) occur in the training data.",
        "2 rows of the test data truncated",
        "staff beats a random subset of the same size throughout; ccs is worse than it throughout.",
        "Test loss · better than random: staff · worse: ccs · staff compared with the best baseline: 2 ties",
        "untuned: 2.000 · all rows: 1.000",
        "Intervals are 95 %, over 3 seeds and 90 test items.",
        "staff 2 · 0 · 0 2 · 0 · 0",
        "Test loss (nats, lower is better)",
        "so the axis is reversed",
        "staff 0.1 1.100 [0.900, 1.300] -0.050 [-0.090, -0.010] win -0.100 [-0.100, +0.200] tie (ccs)",
        "ROUGE-L (0 to 100)",
        "ccs 0.3 120 20.0 s 27.0 s 0.222",
        "target models/target (4M)",
        "test sha256 7e57",
        "device name processor",
    ):
        assert words in page, words
    assert page.count("Warning") == 1


def test_a_coreset_of_ones_own_is_not_in_the_chart_of_costs(make_compared):
    compared = make_compared()
    compared["config"]["own"] = {"less-top5-mmlu": "less.jsonl"}
    for row in compared["results"]:
        if row["method"] == "ccs":
            row |= {"method": "less-top5-mmlu", "selection_seconds": None}
            row["selection_to_tuning"] = None
    page = render_comparison_page(compared)
    words = words_of(page)
    assert "less-top5-mmlu: chosen elsewhere (--own), so the cost of selection is not" in words
    assert "less-top5-mmlu 0.3 120 - 27.0 s -" in words
    labels = dict.fromkeys(label for _, label in figures_of(page))
    costs = [label for label in labels if "against seconds" in label]
    assert costs
    assert not any("less-top5-mmlu" in label for label in costs)
    assert all("less-top5-mmlu 0.1" in label for label in labels if label not in costs)


def test_one_test_item_has_values_and_no_intervals(make_compared):
    compared = make_compared()
    ends = ("low", "high", "random_low", "random_high", "best_low", "best_high")
    for row in compared["results"]:
        row |= dict.fromkeys(ends) | {"random_verdict": row["random_verdict"] and "tie"}
        row["items"] = 1
    page = words_of(render_comparison_page(compared))
    assert "staff and ccs tie with a random subset of the same size" in page
    assert "One test item has no interval and says nothing of others: every difference" in page
    for words in ("95 %", "interval contains", "one in twenty", "test items."):
        assert words not in page, words


def test_a_metric_that_is_zero_for_every_method_is_not_counted(make_compared):
    compared = make_compared(metrics=("loss", "exact"))
    before = words_of(render_comparison_page(compared))
    assert "Compared with random 4 · 0 · 4" in before
    for row in compared["results"]:
        if row["metric"] == "exact":
            row["random_verdict"] = row["random_verdict"] and "tie"
            row |= {} if row["keep"] is None else {"value": 0.0}
    page = words_of(render_comparison_page(compared))
    assert "Compared with random 2 · 0 · 2" in page
    assert "Exact match is 0 for every method: its ties say nothing." in page
    assert "staff beats a random subset of the same size throughout" in page


def test_what_is_found_is_of_all_sizes_though_six_are_shown(make_compared):
    compared = make_compared(methods=("random", "staff"), keep=tuple(k / 10 for k in range(1, 9)))
    for row in compared["results"]:
        row["random_verdict"] = row["random_verdict"] and ("win" if row["keep"] == 0.8 else "tie")
    page = words_of(render_comparison_page(compared))
    assert "the first 6 of 8 sizes are shown" in page
    assert "staff beats a random subset of the same size in some cases" in page
    assert page.count("better than random: staff (keep 0.8)") == 2  # metrics


def test_every_chart_says_in_words_what_it_shows(make_compared):
    labels = [label for _, label in figures_of(render_comparison_page(make_compared()))]
    assert len(labels) == 2 * 3 * 2  # metrics, charts, widths
    assert labels[0].startswith("Test loss by share of rows kept. untuned: 2.000; all rows: 1.000;")
    assert "staff 0.1: 1.100" in labels[0]
    assert "Test loss, differences from random. staff 0.1: -0.050, win; staff 0.3:" in labels[2]
    assert "staff 0.1: 9 seconds, 1.100" in labels[4]


def test_methods_differ_by_mark_and_dashes_not_by_colour_alone(make_compared):
    page = render_comparison_page(make_compared(methods=EVERY[:6], metrics=("loss",)))
    chart = page[page.index("<svg ") : page.index("</svg>")]
    lines = re.findall(r'<path d="M[^"]*" stroke="var\(--([\w-]+)\)" [^>]*?(?:stroke-dasharray="([\d,]+)"|/>)', chart)  # fmt: skip
    dashes = {color: dash for color, dash in lines if color in ("staff", "ink", *(f"method-{n}" for n in range(1, 6)))}  # fmt: skip
    assert len(dashes) == len(set(dashes.values())) == 6
    for method in EVERY[:6]:
        assert f">{method}</text>" in chart  # beside its line: no legend to look up
    for name in ("all rows", "untuned"):
        assert name in chart


@pytest.mark.parametrize(
    ("value", "reverse", "align"),
    [(0.0, False, "left"), (1.0, False, "right"), (0.0, True, "right"), (1.0, True, "left")],
)
def test_words_above_a_chart_stay_within_it(value, reverse, align):
    x = {"scale": {"reverse": True} if reverse else {}}
    _, *named = _references({"random": value}, Domain(0.0, 1.0), x)
    assert {layer["mark"]["align"] for layer in named} == {align}


def test_better_is_to_the_right(make_compared):
    """A lower loss and a higher ROUGE-L, the same of both, stand at the same places."""
    page = render_comparison_page(make_compared(methods=("staff", "random"), keep=(0.1,)))
    charts = re.findall(r"<svg (.*?)</svg>", page, re.DOTALL)
    places = []
    for chart in charts:
        if "differences" in chart:
            zero, *_, point = re.findall(r'transform="translate\(([\d.]+)[^"]*"[^>]*(?:stroke-dasharray|fill="var\(--staff)', chart)  # fmt: skip
            places.append(float(point) - float(zero))
    assert len(places) == 4
    assert min(places) > 10
    assert places[:2] == pytest.approx(places[2:])


@pytest.mark.parametrize(
    ("changes", "there", "absent"),
    [
        ({"seeds": 1}, ["One seed: intervals are 95 %", "One seed only: other seeds may differ.",
                       "variation between seeds unknown"], []),
        ({"keep": (0.1,)}, ["Keep 0.1: mean over seeds", "at 1 size"], ["Sizes are spaced evenly"]),
        ({"methods": ("random",)}, ["random is the only method"], ["Difference from random, paired"]),
        ({"methods": ("staff",), "keep": (0.1,), "seeds": 1},
         ["Nothing is compared with random", "nothing to compare"], ["Difference from random, paired"]),
        ({"metrics": ("exact",)}, ["Exact match (share of items)"], ["Test loss", "ROUGE-L"]),
        ({"full": False}, ["no selection-to-tuning ratio"], ["all rows: tuned", "· all rows:"]),
    ],
)  # fmt: skip
def test_little_makes_a_page_too(make_compared, changes, there, absent):
    page = words_of(render_comparison_page(make_compared(**changes)))
    for words in there:
        assert words in page, words
    for words in absent:
        assert words not in page, words
    assert "None" not in page
    assert "nan" not in page.lower().replace("finance", "")


def test_values_that_do_not_differ_have_an_axis(make_compared):
    result = make_compared(metrics=("exact",))
    for row in result["results"]:
        row |= {"value": 0.0, "low": 0.0, "high": 0.0}
        if row["random_verdict"]:
            row |= {"random_difference": 0.0, "random_low": 0.0, "random_high": 0.0}
    page = render_comparison_page(result)
    assert len(figures_of(page)) == 6
    assert "NaN" not in page


def test_an_interval_that_dwarfs_the_others_is_cut_off_and_told(make_compared):
    result = make_compared(methods=("staff", "random", "ccs", "d2"), metrics=("loss",))
    assert "extends beyond the chart" not in render_comparison_page(result)
    result["results"][2] |= {"random_low": -90.0, "random_high": 90.0, "random_verdict": "tie"}
    page = render_comparison_page(result)
    assert "‹ and ›: the interval extends beyond the chart" in page
    assert page.count("‹</text>") == page.count("›</text>") == 4  # two widths, each with its rim


def test_the_largest_page_is_small(make_compared):
    keep = tuple(n / 40 for n in range(1, 21))
    result = make_compared(methods=EVERY, keep=keep, metrics=("loss", "rougeL", "bleu", "exact"))
    page = render_comparison_page(result)
    assert 500_000 < len(page.encode()) < 2_000_000
    assert "the first 6 of 20 sizes are shown; results.csv has all" in page
    assert "more in the table" in page


def test_the_same_comparison_gives_the_same_bytes(make_compared):
    result = make_compared()
    assert render_comparison_page(result) == render_comparison_page(result)


def test_nothing_may_load(make_compared):
    page = render_comparison_page(make_compared())
    assert "default-src &#39;none&#39;; " in page
    assert not re.search(r"<(link|img|iframe|object|embed|base)\b|\s(src|on\w+|style)=", page)
    assert set(re.findall(r"https?://[^\"' ]+", page)) <= {
        "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink",
    }  # fmt: skip


def test_all_rows_far_off_is_named_in_the_chart_of_costs(make_compared):
    result = make_compared(metrics=("loss",))
    [full] = [row for row in result["results"] if row["method"] == "full"]
    full |= {"value": 9.0, "low": 8.9, "high": 9.1}
    charts = re.findall(r"<svg (.*?)</svg>", render_comparison_page(result), re.DOTALL)
    assert ["all rows 9 ↑" in chart for chart in charts[4:]] == [True, True]
