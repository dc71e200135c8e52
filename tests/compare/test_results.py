import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from staff.compare.results import Group, interval_of, results
from staff.compare.statistics import estimate
from staff.errors import RunError

N = 40


@pytest.fixture
def group(tmp_path, write_items):
    """A function that makes a group of cells from each seed's loss above that of its items."""
    items = np.linspace(0, 5, N)

    def make(method, *above, keep="0.1", tuning=4.0, selection=None, **said):
        folders = [tmp_path / f"{method}-{keep}-{seed}" for seed in range(len(above))]
        for folder, level in zip(folders, above, strict=True):
            write_items(folder, items + level, metrics=("loss", "bleu"), **said)
        cost = None if tuning is None else {"rows": 7, "seconds": tuning}
        cells = [{"tuning": cost, "test": {"rows": N}} for _ in above]
        return Group(method, keep, cells, folders, selection)

    return make


@pytest.fixture
def groups(group):
    return [
        group("untuned", 9.0, keep=None, tuning=None),
        group("full", 0.0, 0.1, 0.2, keep=None, tuning=20.0),
        group("staff", 1.0, 1.1, 1.2, selection=5.0),
        group("random", 2.0, 2.1, 2.2, selection=1.0),
        group("ccs", 1.5, 1.6, 1.7, selection=4.0),
        group("d2", 1.0, 2.0, 3.0, selection=4.0),
    ]


def row(rows, method, metric="loss"):
    return next(r for r in rows if (r["method"], r["metric"]) == (method, metric))


def test_differences_are_paired_and_judged(groups):
    rows = results(groups, ["loss"])
    staff = row(rows, "staff")
    # Items vary by 5 nats, seeds by 0.2, both alike for both methods: the difference is exact.
    assert staff["value"] == pytest.approx(2.5 + 1.1)
    assert staff["low"] < staff["value"] < staff["high"]
    assert [staff[f"random_{x}"] for x in ("difference", "low", "high")] == pytest.approx([-1] * 3)
    assert staff["random_verdict"] == "win"
    assert (staff["best"], staff["best_verdict"]) == ("ccs", "win")  # of the baselines, 1.6
    assert staff["best_difference"] == pytest.approx(-0.5)
    # d2 is as good as random on the mean (2.0 against 2.1), but not on every seed.
    assert row(rows, "d2")["random_verdict"] == "tie"
    assert row(rows, "d2")["best"] == "ccs"
    assert row(rows, "random")["random_difference"] is None
    assert row(rows, "random")["best_verdict"] == "loss"
    assert row(rows, "ccs")["best"] is None  # it is the best baseline
    for name in ("untuned", "full"):
        assert row(rows, name)["best"] is row(rows, name)["random_difference"] is None


def test_costs(groups):
    rows = results(groups, ["loss"])
    staff, full, untuned = (row(rows, name) for name in ("staff", "full", "untuned"))
    assert (staff["selection_seconds"], staff["tuning_seconds"]) == (5.0, 4.0)
    assert staff["selection_to_tuning"] == 5 / 20
    assert full["tuning_seconds"] == 20.0
    assert full["selection_to_tuning"] is untuned["tuning_seconds"] is None
    assert (untuned["rows"], staff["rows"], staff["seeds"], staff["items"]) == (0, 7, 3, N)
    without = results([g for g in groups if g.method != "full"], ["loss"])
    assert row(without, "staff")["selection_to_tuning"] is None


def test_rows_are_the_fewest_of_any_seed(group):
    one = group("random", 2.0, 2.1)
    one.cells[1]["tuning"] = {"rows": 6, "seconds": 4.0}  # one was skipped
    assert row(results([one], ["loss"]), "random")["rows"] == 6


def test_a_larger_bleu_is_better(group):
    said = {"staff": "a b c d", "random": "a x y z", "ccs": "a b c d e"}
    groups = [group(method, 0, 0, said=words) for method, words in said.items()]
    rows = results(groups, ["loss", "bleu"])
    staff, random, ccs = (row(rows, method, "bleu") for method in said)
    assert staff["value"] == pytest.approx(100)
    assert ccs["value"] == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert ccs["value"] > random["value"]
    assert staff["random_verdict"] == ccs["random_verdict"] == "win"
    assert (staff["best"], staff["best_verdict"]) == ("ccs", "win")
    assert (random["best"], random["best_verdict"]) == ("ccs", "loss")
    assert ccs["best"] is None
    assert row(rows, "staff")["random_verdict"] == "tie"
    # Of equal baselines neither has a better one.
    assert row(rows, "random")["best"] is row(rows, "ccs")["best"] is None


def test_sizes_are_compared_apart(group):
    rows = results([group("staff", 1.0), group("random", 0.0, keep="0.2")], ["loss"])
    assert row(rows, "staff")["random_difference"] is None


def test_other_items_are_refused(groups, write_items):
    write_items(groups[2].folders[1], [1.0] * 3)
    with pytest.raises(RunError, match="contain different test items"):
        results(groups, ["loss"])


def test_every_method_has_the_same_items_in_the_same_order(group):
    ours, random = group("staff", 1.0, 1.1), group("random", 2.0, 2.1)
    for folder in random.folders:  # as many and the same, but the other way round
        table = pq.read_table(folder / "items.parquet")
        pq.write_table(table.take(np.arange(N)[::-1]), folder / "items.parquet")
    with pytest.raises(RunError, match="contain different test items"):
        results([ours, random], ["loss"])


def test_one_test_item_has_no_interval(tmp_path, write_items):
    groups = []
    for method, loss in (("staff", 1.0), ("random", 2.0)):
        write_items(tmp_path / method, [loss])
        cell = {"tuning": {"rows": 7, "seconds": 1.0}, "test": {"rows": 1}}
        groups.append(Group(method, "0.1", [cell], [tmp_path / method]))
    staff = row(results(groups, ["loss"]), "staff")
    assert (staff["value"], staff["low"], staff["high"]) == (1.0, None, None)
    assert (staff["random_difference"], staff["random_low"]) == (-1.0, None)
    assert staff["random_verdict"] == "tie"
    assert interval_of(estimate([[1.0]]), "exact") == (1, -np.inf, np.inf)


@pytest.mark.parametrize(("metric", "most"), [("exact", 1), ("rougeL", 100), ("loss", np.inf)])
def test_an_interval_over_seeds_is_cut_to_what_the_metric_can_be_and_no_further(metric, most):
    top = most if np.isfinite(most) else 5
    apart = estimate([np.zeros(N), np.full(N, top)])
    assert apart.interval().low < 0 < top < apart.interval().high
    assert interval_of(apart, metric) == (top / 2, 0, min(most, apart.interval().high))


def test_no_exact_match_in_forty_items_may_be_up_to_nine_in_a_hundred(tmp_path):
    groups = []
    for method in ("staff", "random"):
        folders = [tmp_path / f"{method}{seed}" for seed in range(3)]
        for folder in folders:
            folder.mkdir()
            table = pa.table({"id": [str(n) for n in range(N)], "exact": np.zeros(N)})
            pq.write_table(table, folder / "items.parquet")
        cells = [{"tuning": {"rows": 7, "seconds": 1.0}, "test": {"rows": N}}] * 3
        groups.append(Group(method, "0.1", cells, folders))
    staff = row(results(groups, ["exact"]), "staff", "exact")
    # Wilson's upper end: z²/(n + z²) = 3.8415/43.8415.
    assert (staff["value"], staff["low"]) == (0, 0)
    assert staff["high"] == pytest.approx(0.0876, abs=1e-4)
    assert staff["random_verdict"] == "tie"
