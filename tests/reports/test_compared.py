import re

import pytest

from staff.reports.compared import markdown_compared, render_compared

INTERVALS = ("difference", "low", "high", "verdict")


def row(metric, method, keep, value, *, random=None, best=None, seconds=12.0):
    """A line of results; random and best are (difference, verdict, name)."""
    found = {
        "metric": metric, "method": method, "keep": keep, "rows": 400, "seeds": 3, "items": 1234,
        "value": value, "low": value - 0.1, "high": value + 0.1, "best": best and best[2],
        "selection_seconds": keep and seconds, "tuning_seconds": 75.0,
        "selection_to_tuning": keep and seconds / 600,
    }  # fmt: skip
    for name, given in (("random", random), ("best", best)):
        parts = (None,) * 4
        if given:
            parts = (given[0], given[0] - 0.05, given[0] + 0.05, given[1])
        found |= {f"{name}_{part}": p for part, p in zip(INTERVALS, parts, strict=True)}
    return found


def result(**changes):
    rows = []
    for metric in ("loss", "rougeL"):
        rows += [
            row(metric, "untuned", None, 5.5),
            row(metric, "full", None, 1.9),
            row(metric, "staff", 0.1, 2.2, random=(-0.2, "win", ""), best=(-0.01, "tie", "ccs")),
            row(metric, "random", 0.1, 2.4, best=(0.19, "loss", "ccs")),
            row(metric, "ccs", 0.1, 2.21, random=(-0.19, "win", "")),
        ]
    config = {
        "seeds": 3,
        "full": True,
        "data": "train.jsonl",
        "test": "t",
        "small": "s",
        "target": "T",
    }
    files = {"config.yaml": "1", "results.csv": "2"}
    return {
        "config": config,
        "results": rows,
        "leaks": {"rows": 0, "of": 9},
        "files": files,
    } | changes


def test_wide():
    lines = render_compared(result(), folder="out", width=120).splitlines()
    assert lines[0] == "Test loss (nats, lower is better)"
    assert (
        "  staff     0.1   2.200 [2.100, 2.300]  -0.200 [-0.250, -0.150] win"
        "  -0.010 [-0.060, +0.040] tie (ccs)" in lines
    )
    assert "  ccs       0.1   2.210 [2.110, 2.310]  -0.190 [-0.240, -0.140] win" in lines
    assert "  staff     0.1    400     12.0 s  1 min 15 s  0.020" in lines
    assert "Intervals are 95 %, over 3 seeds and 1,234 test items." in "\n".join(lines)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_every_width_is_kept_and_loses_no_number(width):
    text = render_compared(result(), folder="out", width=width)
    assert max(map(len, text.splitlines())) <= width
    for number in ("5.500", "-0.200", "+0.190", "1 min 15 s", "0.020", "2.20 "):
        assert number in text
    assert "\x1b" not in text


def test_a_short_interval_does_not_cut_its_longer_side():
    # [-0.010, +0.110] is a tie: its mean half width, 0.060, would not say so.
    staff = row("loss", "staff", 0.1, 2.2, random=(0.1, "tie", ""))
    staff |= {"random_low": -0.01, "random_high": 0.11}
    text = render_compared(result(results=[staff]), folder="out", width=44)
    assert "+0.100 ±0.110 tie" in text


def test_one_item_has_a_value_and_no_interval():
    staff = row("loss", "staff", 0.1, 2.2, random=(-0.2, "tie", ""))
    staff |= dict.fromkeys(("low", "high", "random_low", "random_high"))
    for width in (44, 120):
        assert "-0.200 tie" in render_compared(result(results=[staff]), folder="out", width=width)


def test_a_single_baseline_was_not_picked():
    alone = [
        row("loss", "ccs", 0.1, 2.2),
        row("loss", "staff", 0.1, 2.1, best=(-0.1, "win", "ccs")),
    ]
    assert "The best baseline was picked" not in render_compared(
        result(results=alone), folder="out", width=200
    )


def test_the_best_baseline_is_not_told_twice():
    rows = [
        row("loss", "staff", 0.1, 2.2, random=(-0.2, "win", ""), best=(-0.2, "win", "random")),
        row("loss", "random", 0.1, 2.4),
    ]
    text = render_compared(result(results=rows), folder="out", width=120)
    assert "best baseline" not in text.lower()


def test_notes():
    def said(**config):
        changed = result(leaks={"rows": 3, "of": 60})
        changed["config"] |= config
        return " ".join(render_compared(changed, folder="out", width=80).split())

    assert "Warning: 3 of 60 test prompts (5 %) occur in the training data." in said()
    assert "No test prompt" not in said()
    assert "One seed: intervals are 95 %, over 1,234 test items only." in said(seeds=1)
    assert "With other seeds, a win or loss may well be a tie" in said(seeds=1)
    assert "Two seeds say little" in said(seeds=2)
    assert "The best baseline was picked on these test items, so it is best partly by" in said()
    assert "untuned: the target as it is; all rows: tuned on all of them. Intervals" in said()
    assert "untuned: the target as it is. Intervals" in said(full=False)
    assert "no selection-to-tuning ratio" in said(full=False)
    assert "from --cache count only with the time to copy" in said(cache="c")
    cut = {"methods": ["staff", "random", "ccs", "d2"], "cut": 0.0}
    assert "with a cut of 0 (--cut 0, --preset paper) ccs and d2 drop no row" in said(**cut)
    for without in ({"cut": 0.1}, {"methods": ["staff", "random"]}):
        assert "--cache" not in said(**cut | without)
        assert "with a cut" not in said(**cut | without)


def test_what_a_comparison_cannot_show_is_told_in_every_form():
    def forms(losses):
        rows = [row("loss", "untuned", None, 2.0), row("loss", "full", None, 1.0)]
        rows += [row("loss", m, keep, value) for (m, keep), value in losses.items()]
        changed = result(results=rows)
        text = render_compared(changed, folder="out", width=80)
        return [" ".join(form.split()) for form in (text, markdown_compared(changed))]

    sizes = {("staff", 0.1): 1.95, ("random", 0.1): 2.01, ("staff", 0.2): 1.96}
    for text in forms(sizes | {("random", 0.2): 1.8}):
        assert "No test prompt occurs word for word in the training data (0 of 9)." in text
        assert (
            "hardly moved the test loss at keep 0.1: 2.000 untuned, 1.950 to 2.010 tuned, which is "
            "less than 5 % apart" in text
        )
    for text in forms(sizes | {("random", 0.2): 1.96}):
        assert "hardly moved the test loss: 2.000 untuned, 1.950 to 2.010 tuned" in text
    for text in forms({("staff", 0.1): 1.8, ("random", 0.1): 1.95}):
        assert "hardly" not in text


def test_coresets_of_one_size_that_are_of_other_rows_are_warned_of(make_compared):
    result = make_compared(methods=("random", "mine"))
    assert "as many rows" not in render_compared(result, folder="out", width=10_000)
    for row in result["results"]:
        if (row["method"], row["keep"]) == ("random", 0.3):
            row["rows"] = 1100
    text = render_compared(result, folder="out", width=10_000)
    assert "not tuned on as many rows (random 1,100, mine 120 at keep 0.3): those that" in text


def test_rows_that_were_truncated_or_skipped_are_told_in_every_form():
    changed = result(
        data={"rows_usable": 90, "rejected": 6, "truncated": 1},
        cells=[{"test": {"rows": 9, "rejected": 1, "truncated": 2}}],
    )
    for text in (render_compared(changed, folder="out", width=60), markdown_compared(changed)):
        text = " ".join(text.split())
        assert "Note: 6 rows of the training data skipped." in text
        assert "Note: 1 row of the training data truncated." in text
        assert "Note: 1 row of the test data skipped." in text
        assert "Note: 2 rows of the test data truncated." in text


def test_markdown_takes_no_markup_from_paths():
    changed = result()
    changed["config"] |= {"data": "a|b*<script>`[x](y)\n# head.jsonl"}
    text = markdown_compared(changed)
    assert r"- data: a\|b\*\<script\>\`\[x\]\(y\) \# head.jsonl" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables if "loss" in line or "2.2" in line} <= {6}
    assert re.search(r"^\| staff \| 0.1 \| 2.200 \[2.100, 2.300\] \|", text, re.MULTILINE)
