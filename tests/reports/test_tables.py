import numpy as np

from staff.reports.tables import MAX_SOURCES, SourceRow, by_source, medians, settings


def table(**columns):
    n = len(columns["source"])
    return {"region": np.zeros(n, int), **columns}


def test_sources_from_the_largest():
    sources = ["a", "b", None, "a", ""]
    chosen = {"0.4": np.array([True, True, False, False, False])}
    columns = table(source=sources, region=np.array([0, -1, -2, 0, 0]))
    found = by_source(columns, chosen, scores=np.arange(5.0))
    assert found == [
        SourceRow("a", 2, 0, 1.5, {"0.4": 1}),
        SourceRow("(empty)", 1, 0, 4.0, {"0.4": 0}),
        SourceRow("(no source)", 1, 0, 2.0, {"0.4": 0}),
        SourceRow("b", 1, 1, 1.0, {"0.4": 1}),
    ]


def test_many_sources_end_in_one_row():
    sources = [f"s{i:03}" for i in range(100)] * 2
    chosen = {"1": np.ones(200, bool)}
    found = by_source(table(source=sources), chosen, scores=np.full(200, np.nan))
    assert len(found) == MAX_SOURCES
    assert found[-1] == SourceRow("(61 more sources)", 122, 0, None, {"1": 122})
    assert sum(source.rows for source in found) == 200


def test_medians_of_what_is_known():
    columns = {"score_small": np.array([1.0, 2, 3]), "loss": np.full(3, np.nan),
               "entropy": np.zeros(3), "response_length": np.array([5.0, 6, 9])}  # fmt: skip
    expected = [("effort score", 2.0, 2.5), ("entropy", 0.0, 0.0), ("response tokens", 6.0, 7.5)]
    # One more row has no finite score, and so none at all.
    longer = {name: np.append(values, np.nan) for name, values in columns.items()}
    for known, more in ((columns, []), (longer, [False])):
        chosen = np.array([False, True, True, *more])
        found = medians(known, {"0.5": chosen})
        assert [(m["name"], m["all"], m["chosen"]["0.5"]) for m in found] == expected
    sources = ["a", "a", "a", "b"]
    longer |= {"source": sources, "region": np.array([0, 0, 0, -2])}
    for scores, expected in ((longer["score_small"], [2.0, None]), (None, [None, None])):
        assert [s.score for s in by_source(longer, {}, scores=scores)] == expected


def test_settings_leave_out_what_is_not_set():
    manifest = {
        "config": {"keep": [0.1], "adapter": None, "total": []}, "data": {"sha256": "d"},
        "models": {"small": {"hash": "s"}}, "device": None, "versions": {"python": "3"},
    }  # fmt: skip
    assert settings(manifest) == [
        ("keep", [0.1]), ("data sha256", "d"), ("small sha256", "s"), ("python", "3"),
    ]  # fmt: skip
