"""The results as files."""

import csv

import pyarrow.parquet as pq
import pytest

from staff.compare.files import write_results


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_spreadsheet_computes_nothing_of_the_csv(tmp_path, start):
    interval = {"value": -1.5, "low": -2e-7, "high": 0.0}
    row = {"metric": "loss", "method": f"{start}cmd|' /C calc'!A0", "keep": None, "rows": 0}
    row |= {"seeds": 1, "items": 9, **interval, "best": "a-b"}
    row |= dict.fromkeys(("random_difference", "best_difference"))
    row |= dict.fromkeys(("selection_seconds", "tuning_seconds", "selection_to_tuning"))
    config = {"seeds": 1, "full": False, "data": "d"}
    write_results(tmp_path, {"config": config, "results": [row]})
    with (tmp_path / "results.csv").open(newline="") as file:
        [line] = csv.DictReader(file)
    assert line["method"] == "'" + row["method"].replace("\r", "␍")
    assert (line["value"], line["low"], line["best"]) == ("-1.5", "-2e-07", "a-b")
    [stored] = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert stored["method"] == row["method"]  # no spreadsheet reads it
