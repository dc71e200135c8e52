from staff.reports.findings import find, headline, tallies


def row(method, verdict, keep=0.1, *, metric="loss", best=None, best_verdict=None):
    return {"metric": metric, "method": method, "keep": keep, "random_verdict": verdict,
            "best": best, "best_verdict": best_verdict}  # fmt: skip


def said(*rows):
    return " ".join(f"{methods} {words}." for methods, words in headline(rows))


def test_each_method_is_in_the_headline_once():
    both = [row("random", None), row("random", None, 0.2)]
    for method, verdicts in {
        "staff": ("win", "win"), "ccs": ("win", "tie"), "d2": ("tie", "win"), "ifd": ("tie", "tie"),
        "grand": ("loss", "tie"), "loss": ("loss", "loss"), "el2n": ("loss", "win"),
    }.items():  # fmt: skip
        both += [row(method, v, keep) for v, keep in zip(verdicts, (0.1, 0.2), strict=True)]
    assert said(*both) == (
        "staff beats a random subset of the same size throughout. "
        "ccs and d2 beat it in some cases and tie with it in the others. "
        "el2n beats it in some cases and is worse in others. "
        "ifd ties with it. "
        "grand is worse than it in some cases and ties with it in the others. "
        "loss is worse than it throughout."
    )


def test_one_difference_is_not_throughout():
    assert said(row("staff", "win")) == "staff beats a random subset of the same size."
    assert said(row("staff", "tie")) == "staff ties with a random subset of the same size."
    assert said(row("random", None)) == ""


def test_sizes_are_named_where_they_differ():
    rows = [row("staff", "win"), row("staff", "win", 0.25), row("ccs", "win"),
            row("ccs", "tie", 0.25), row("d2", "tie"), row("d2", "tie", 0.25)]  # fmt: skip
    found = find(rows)
    assert found.wins == "staff and ccs (keep 0.1)"
    assert found.ties == "d2 and the other sizes"
    assert found.losses == found.ours == ""


def test_staff_against_the_best_baseline():
    ccs, random = ({"best": name, "best_verdict": "win"} for name in ("ccs", "random"))
    assert find([row("staff", "win", **random)]).ours == ""  # it is said already
    rows = [row("staff", "win", **ccs), row("staff", "win", 0.2, **random),
            row("staff", "tie", 0.3, best="d2", best_verdict="loss")]  # fmt: skip
    assert find(rows).ours == "2 wins and 1 loss"


def test_tallies():
    rows = [row("random", None), row("staff", "win"), row("staff", "tie", 0.2),
            row("staff", "loss", metric="exact")]  # fmt: skip
    assert tallies(rows) == {"staff": {"loss": (1, 1, 0), "exact": (0, 0, 1)}}
