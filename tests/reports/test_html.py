"""report.html: what it says, that it is small, always the same and asks for nothing."""

import base64
import errno
import hashlib
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from staff.data.files import Source
from staff.errors import DataError
from staff.reports import figures
from staff.reports.html import data_of, render_run, write_report


def render(folder, manifest):
    return render_run(folder, manifest, data_of(manifest))


def test_what_a_person_asks_of_a_run_is_there(make_run, records):
    folder, manifest = make_run(records, sources=["web", "forum", None] * 100)
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", render(folder, manifest)))
    for words in (
        "Rows 300 usable of 302",
        "Chosen 30 · 90 10 % · 30 %",
        "2 rows skipped (see rejected.jsonl)",
        "small models/small (1.23M)",
        "Top : the effort score (the norm of the small model&#39;s gradient; higher is harder) of "
        "all rows and of the chosen ones; the 30 highest, above 1.90, are cut as likely noise",
        "Table of 12 regions",
        "Is the small model a good proxy? Good: the same rows are hard for both models",
        "scores with the small model&#39;s: 0.8",
        "(evenly over the regions), the rank correlation is 0.8",
        "over 60 verified rows.",
        "60 of 60 verified rows",
        "Median all rows coreset 0.1 coreset 0.3 effort score 1.50",
        "response tokens 25.5",
        "forum 100 33.3 %",
        "(no source) 100 33.3 %",
        "score small (reused) 1 min 15 s 300 30,100 400",
        "prompt 29",
        "small sha256 5e4f",
    ):
        assert words in page, words


def test_regions_and_coresets_add_up(make_run, records):
    folder, manifest = make_run(records)
    page = render(folder, manifest)
    for coreset in manifest["coresets"]:
        cells = re.findall(rf'<td data-coreset="{coreset["name"]}">(\d+)</td>', page)
        assert sum(map(int, cells[:12])) == coreset["total"]
    fates = re.findall(r'class="fate (\S+)">(\S+)<', page)
    assert {a for a, _ in fates} <= {"budget", "top-up", "over-budget", "cut"}
    assert len(fates) == 2 * page.count("<tr data-region=")


def test_the_same_run_gives_the_same_bytes(make_run, records):
    folder, manifest = make_run(records)
    write_report(folder, manifest, data_of(manifest))
    first = folder.report.read_bytes()
    write_report(folder, manifest, data_of(manifest))
    assert folder.report.read_bytes() == first
    assert folder.report not in folder.outputs()  # its times would change the manifest's hashes


def test_nothing_but_its_own_style_and_script_may_load(make_run, records):
    page = render(*make_run(records))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src &#39;none&#39;; ")
    for kind in ("style", "script"):
        [content] = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src &#39;sha256-{digest}&#39;" in policy
    assert not re.search(r"<(link|img|iframe|object|embed|base)\b|\s(src|on\w+|style)=", page)
    assert set(re.findall(r"https?://[^\"' ]+", page)) <= {
        "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink",
    }  # fmt: skip  # names, which no browser asks for


def test_the_largest_report_is_small(make_run):
    """Many regions, coresets and sources, and rows of markup, which grows when it is escaped."""
    n = 3000
    rows = [{"prompt": "<&'\"" * 1000, "response": "\U0001f600" * 2000} for _ in range(n)]
    keep = tuple(i / 40 for i in range(1, 21))
    folder, manifest = make_run(rows, keep=keep, regions=300, sources=["<&" * 99 + str(i % 99) for i in range(n)])  # fmt: skip
    page = render(folder, manifest)
    assert 500_000 < len(page.encode()) < 2_000_000
    assert "the first 6 of 20 coresets are shown" in page
    assert "(60 more sources)" in page
    assert "[…, 2,000 characters]" in page


def test_a_random_run_has_rows_and_sources_only(make_run, records):
    folder, manifest = make_run(records, method="random", sources=["web"] * 300)
    page = render(folder, manifest)
    assert "h-sources" in page
    assert "prompt 1" in page
    for absent in (
        "h-selection",
        "h-scores",
        "h-agreement",
        "h-lengths",
        'id="region"',
        "features",
    ):
        assert absent not in page


def test_a_run_without_regions_has_the_scores_its_method_goes_by(make_run, records, monkeypatch):
    folder, manifest = make_run(records, method="grand", sources=["web"] * 300)
    table = pq.read_table(folder.selection)
    scores = table["score_small"].to_numpy().copy()
    scores[-3:] *= 1000  # three of those chosen, far from all others
    scores[0] = np.nan
    place = table.column_names.index("score_small")
    table = table.set_column(place, "score_small", pa.array(scores, from_pandas=True))
    pq.write_table(table, folder.selection)
    drawn, draw = [], figures.scores_figure
    monkeypatch.setattr(
        figures,
        "scores_figure",
        lambda *given, **how: drawn.append((given, how)) or draw(*given, **how),
    )
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", render(folder, manifest)))
    for (bins, name), how in drawn:
        assert bins.counts["uncut"].sum() + bins.beyond == 299
        assert bins.counts["chosen"].sum() == {"0.1": 27, "0.3": 87}[name]
        assert bins.edges[-1] < 3.5  # the others can be told apart
        assert how == {"title": "GraNd (effort) score on the small model", "threshold": None}
    assert len(drawn) == 2
    for words in (
        "The method grand takes the highest scores. all rows chosen",
        "Coreset 0.1: 30 rows. 3 rows, 3 of them chosen, have scores beyond the right edge.",
        "Share Median GraNd score Chosen for 0.1",
        "Row GraNd score Outcome Prompt Response",
        "Row 299 web GraNd score 1,997 budget budget",
        "Row 0 web GraNd score over-budget over-budget",
    ):
        assert words in page, words
    assert "cut" not in page.split("Scores and the choice")[1].split("Settings and origin")[0]


def test_what_a_method_dropped_is_marked_unless_each_value_of_a_quota_has_its_own(
    make_run, records, monkeypatch
):
    def replace(name, values):
        table = pq.read_table(folder.selection)
        place = table.column_names.index(name)
        pq.write_table(table.set_column(place, name, values), folder.selection)

    def drawn_with(dropped):
        reasons = np.array(pq.read_table(folder.selection)["reason@0.1"].to_pylist(), object)
        reasons[dropped] = "cut"
        replace("reason@0.1", pa.array(reasons))
        found.clear()
        return render(folder, manifest)

    found, draw = [], figures.scores_figure
    monkeypatch.setattr(
        figures,
        "scores_figure",
        lambda *given, **how: found.append((given, how)) or draw(*given, **how),
    )
    folder, manifest = make_run(records, method="d2", keep=(0.1,))
    above = drawn_with(np.arange(270, 300))
    [((bins, _), how)] = found
    assert how["threshold"] == pytest.approx(1 + 269 / 300)
    assert bins.counts["cut"].sum() + bins.beyond == 30
    assert "the 30 rows with the highest scores are cut" in above
    assert "· cut, left out" in re.sub(r"\s+", " ", above)
    scores = pq.read_table(folder.selection)["score_small"].to_numpy().copy()
    scores[0] *= 1e6  # of a row that is on a list, so it was not dropped
    replace("score_small", pa.array(scores))
    manifest["quotas"] = {"column": "source", "rows": {"a": 150, "b": 150}}
    below = drawn_with([100])
    [((bins, _), how)] = found
    assert how["threshold"] is None
    assert bins.counts["cut"].sum() + bins.beyond == 31 + 1
    assert bins.edges[-1] < 3.5  # the others can be told apart
    assert "the 31 rows with the highest scores among those of the same group are cut" in below


def test_a_method_of_features_has_no_score(make_run, records):
    page = render(*make_run(records, method="k-centre", sources=["web"] * 300))
    assert "The method k-centre chooses by features" in page
    for absent in ("h-scores", "Median effort", 'class="score"', "goes by score"):
        assert absent not in page


def test_few_rows_and_no_spread(make_run, records):
    folder, manifest = make_run(records[:2], keep=(0.5,), regions=1)
    page = render(folder, manifest)
    assert "Table of the region<" in page
    assert "Middle" not in page  # no region is large enough to be verified


def test_data_that_are_gone_or_changed_are_not_read(make_run, records):
    folder, manifest = make_run(records)
    path = folder.path.parent / "train.jsonl"
    path.write_text(path.read_text().replace("prompt 1", "prompt one"))
    with pytest.raises(DataError, match="changed since the run"):
        data_of(manifest)
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        data_of(manifest)
    page = render_run(folder, manifest, None, missing="No <texts>: gone.")
    assert "No &lt;texts&gt;: gone." in page
    assert "prompt 1" not in page


def test_data_that_may_not_be_read_are_missing(make_run, records, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied", "train.jsonl")

    _, manifest = make_run(records)
    monkeypatch.setattr(Source, "content_hash", refuse)
    with pytest.raises(DataError, match=r"cannot read .*train\.jsonl: Permission denied"):
        data_of(manifest)


def test_a_run_of_an_earlier_version_has_its_correlation_without_a_verdict(make_run, records):
    folder, manifest = make_run(records, proxy=False)
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", render(folder, manifest)))
    assert "Rank correlation (Spearman) 0.8" in page
    assert "over 60 verified rows. Verified rows are spread evenly" in page
    assert "proxy" not in page


def test_the_correlation_is_of_finite_scores_that_the_ratios_are_made_of(make_run, records):
    folder, manifest = make_run(records)
    table = pq.read_table(folder.selection)
    verified = table["verified"].to_numpy(zero_copy_only=False)
    target = table["score_target"].to_numpy(zero_copy_only=False).copy()
    falls = np.where(verified, -target, np.nan)  # before fine-tuning: the other way round
    target[np.flatnonzero(verified)[0]] = np.nan  # of the easiest row, not finite
    place = table.column_names.index("score_target")
    table = table.set_column(place, "score_target", pa.array(target, from_pandas=True))
    pq.write_table(table, folder.selection)
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", render(folder, manifest)))
    assert "over 59 verified rows" in page
    assert "rank correlation is 0.8" in page
    table = table.append_column("score_untuned", pa.array(falls, from_pandas=True))
    pq.write_table(table, folder.selection)
    page = render(folder, manifest)
    assert "rank correlation is <strong>-1.00</strong>" in re.sub(r"\s+", " ", page)
    assert "score on the small model before fine-tuning" in page


def test_one_row_without_a_finite_score_takes_no_section_away(make_run, records):
    folder, manifest = make_run(records, keep=(0.1,))
    table = pq.read_table(folder.selection)
    bad = ~table["selected@0.1"].to_numpy() & (np.arange(300) == 0)
    assert bad.sum() == 1
    for name in ("score_small", "loss", "response_length", "region"):
        column = pa.array(table[name].to_numpy(), table[name].type, mask=bad)
        table = table.set_column(table.column_names.index(name), name, column)
    pq.write_table(table, folder.selection)
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", render(folder, manifest)))
    assert "Median all rows coreset 0.1 effort score 1.50" in page
    assert "Response lengths, coreset 0.1." in page
    assert "nan" not in page.lower()


def test_rows_to_include_are_among_all_rows_of_the_chart(make_run, records, monkeypatch):
    folder, manifest = make_run(records)
    table = pq.read_table(folder.selection)
    listed = table["selected@0.1"].to_numpy()  # as if all of them were on the list: in no region
    region = pa.array(table["region"].to_numpy(), pa.int32(), mask=listed)
    place = table.column_names.index("region")
    pq.write_table(table.set_column(place, "region", region), folder.selection)
    drawn, draw = [], figures.selection_figure
    monkeypatch.setattr(
        figures,
        "selection_figure",
        lambda *given, **how: drawn.append(given) or draw(*given, **how),
    )
    render(folder, manifest)
    for bins, *_ in drawn:
        everything = bins.counts["uncut"] + bins.counts["cut"]
        assert everything.sum() + bins.beyond == 300
        assert (bins.counts["chosen"] <= everything).all()
    assert len(drawn) == 2


@pytest.mark.parametrize("method", ["random", "staff"])
def test_rows_on_a_list_are_chosen_rows_where_they_are_shown(make_run, records, method):
    folder, manifest = make_run(records, keep=(0.1,), method=method)
    table = pq.read_table(folder.selection)
    listed = table["selected@0.1"].to_numpy()
    reason = np.where(listed, "included", table["reason@0.1"].to_numpy(zero_copy_only=False))
    columns = {"reason@0.1": pa.array(reason)}
    columns["region"] = pa.array(np.zeros(300), pa.int32(), mask=listed | (method == "random"))
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    pq.write_table(table, folder.selection)
    manifest["include"] = {"path": "ids.txt", "rows": 30}
    page = render(folder, manifest)
    shown = page.count('class="fate included"')
    told = "included, on the list of rows to include" in page
    assert (shown, told) == ((30, True) if method == "random" else (0, False))
    assert 'matches(".budget, .top-up, .included")' in page
    assert "excluded, on the list" not in page


def test_shares_of_lengths_are_of_all_rows_also_of_those_beyond_the_axis(
    make_run, records, monkeypatch
):
    records[-2]["response"], records[-1]["response"] = "x" * 500, "x" * 900
    folder, manifest = make_run(records, keep=(0.01,), method="length")  # takes the last three
    drawn = []
    monkeypatch.setattr(figures, "steps", lambda edges, heights: drawn.append(heights) or [])
    page = render(folder, manifest)
    everything, chosen = drawn[:2]
    assert (everything.sum(), chosen.sum()) == (pytest.approx(298 / 300), pytest.approx(1 / 3))
    assert "2 rows, 2 of them chosen, are longer than the axis." in page


def test_rows_beyond_the_chart_of_regions_are_not_all_called_cut(make_run, records):
    folder, manifest = make_run(records, keep=(0.1,))
    table = pq.read_table(folder.selection)
    place = table.column_names.index("score_small")
    scores = table["score_small"].to_numpy().copy()
    scores[5] = 1000.0  # on a list: in no region, whatever its score
    table = table.set_column(place, "score_small", pa.array(scores))
    out = np.arange(300) == 5
    region = pa.array(table["region"].to_numpy(), pa.int32(), mask=out)
    table = table.set_column(table.column_names.index("region"), "region", region)
    pq.write_table(table, folder.selection)
    page = render(folder, manifest)
    assert "1 row has a score beyond the right edge" in page


def test_advice_is_shown(make_run, records):
    folder, manifest = make_run(records)
    manifest["proxy"] |= {"verdict": "weak", "because": "too few rows", "advice": "verify <more>"}
    page = render(folder, manifest)
    assert "<strong>Weak: too few rows are verified to tell.</strong>" in page
    assert "<b>Advice</b>: verify &lt;more&gt;." in page


def test_regions_that_the_target_scored_nothing_of_are_told(make_run, records):
    few = render_run(*make_run(records[:60], regions=12), None)
    assert "are not verified because they have 10 rows or fewer. They get equal shares." in few
    assert "fewer --regions (about 2)" in few
    assert "not verified" not in render_run(*make_run(records, regions=2), None)
