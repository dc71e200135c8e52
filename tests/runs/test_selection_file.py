import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from staff.errors import RunError
from staff.runs.selection_file import (
    coreset_columns,
    read_numbers,
    read_rows,
    read_selection,
    read_stored,
    write_selection,
)
from staff.types import Selection

N = 6


def write(path, **more):
    reason = np.array([1, 0, 2, 3, 1, 0], np.int8)
    arguments = {
        "ids": [f"é{i}" for i in range(N)],
        "rows": np.array([0, 1, 2, 4, 5, 7]),
        "scores": {"effort": np.arange(N) / 7, "loss": np.ones(N)},
        "selections": {
            "0.1": Selection(rows=np.array([0, 2, 4]), reason=reason, method="staff"),
            "n4": Selection(rows=np.array([0, 1, 2, 4]), reason=reason, method="staff"),
        },
        "score_target": np.array([np.nan, 2.0, np.nan, np.nan, 5.0, np.nan]),
        "regions": np.array([0, 0, 1, -1, 1, 2]),
        "verified": np.array([False, True, False, False, True, False]),
    }
    write_selection(path, **{**arguments, **more})


def test_every_row_with_its_scores_region_and_fate(tmp_path):
    write(tmp_path / "selection.parquet")
    schema = pq.read_schema(tmp_path / "selection.parquet")
    assert {name: str(schema.field(name).type) for name in schema.names} == {
        "id": "string", "row": "int64", "score_small": "double", "loss": "double",
        "entropy": "double", "el2n": "double", "response_length": "double",
        "unconditioned_loss": "double", "tokens": "int64",
        "score_target": "double", "region": "int32", "verified": "bool",
        "selected@0.1": "bool", "reason@0.1": "string",
        "selected@n4": "bool", "reason@n4": "string",
    }  # fmt: skip
    table = read_selection(tmp_path / "selection.parquet")
    assert table["id"].tolist() == [f"é{i}" for i in range(N)]
    assert table["score_small"].tolist() == (np.arange(N) / 7).tolist()  # to the last bit
    assert np.isnan(table["score_target"]).tolist() == [True, False, True, True, False, True]
    assert table["region"].tolist() == [0, 0, 1, -1, 1, 2]
    assert table["selected@0.1"].tolist() == [True, False, True, False, True, False]
    assert table["reason@0.1"].tolist() == [
        "budget",
        "over-budget",
        "top-up",
        "cut",
        "budget",
        "over-budget",
    ]
    assert coreset_columns(table) == ["0.1", "n4"]


def test_sources_are_a_column_only_where_they_are_known(tmp_path):
    sources = ["web", None, "", "é", "web", "x"]
    write(tmp_path / "s.parquet", sources=sources)
    table = read_selection(tmp_path / "s.parquet")
    assert list(table)[:4] == ["id", "row", "source", "score_small"]
    assert table["source"].tolist() == sources
    write(tmp_path / "again.parquet", sources=table["source"])  # as a re-selection has them
    assert (tmp_path / "s.parquet").read_bytes() == (tmp_path / "again.parquet").read_bytes()


def test_unknown_scores_are_null(tmp_path):
    write(tmp_path / "s.parquet", scores={}, regions=None, verified=None, score_target=None)
    table = pq.read_table(tmp_path / "s.parquet")
    for name in ("score_small", "loss", "score_target", "region"):
        assert table.column(name).null_count == N
    assert table.column("verified").to_pylist() == [False] * N


def test_same_rows_same_bytes_whatever_the_chunks(tmp_path, monkeypatch):
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    monkeypatch.setattr("staff.runs.selection_file.GROUP", 4)
    write(tmp_path / "c")
    assert pq.read_table(tmp_path / "c").equals(pq.read_table(tmp_path / "a"))


def test_some_rows_in_the_order_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("staff.runs.selection_file.GROUP", 4)
    write(tmp_path / "s.parquet")
    rows = read_rows(tmp_path / "s.parquet", np.array([5, 0, 4]))
    assert [(row["id"], row["row"], row["reason@0.1"]) for row in rows] == [
        ("é5", 7, "over-budget"), ("é0", 0, "budget"), ("é4", 5, "budget"),
    ]  # fmt: skip
    assert rows[1]["score_target"] is None
    numbers = read_numbers(tmp_path / "s.parquet")
    assert "id" not in numbers
    assert "reason@0.1" not in numbers
    assert numbers["selected@n4"].sum() == 4
    for read in (read_numbers, lambda path: read_rows(path, np.array([0]))):
        with pytest.raises(RunError, match="is missing: put it back"):
            read(tmp_path / "none.parquet")


def test_what_a_selection_is_made_again_from(tmp_path):
    path = tmp_path / "s.parquet"
    sources = ["web", None, "", "é", "web", "x"]
    gone = Selection(np.array([1]), np.array([0, 1, 6, 0, 0, 6], np.int8), "staff")
    kept = Selection(np.array([1]), np.array([6, 1, 0, 0, 0, 0], np.int8), "staff")
    write(path, sources=sources, selections={"0.1": gone, "0.2": kept})
    stored, table = read_stored(path), read_selection(path)
    assert stored["id"] == tuple(table["id"])
    assert stored["rejected"].tolist() == [True, False, True, False, False, True]
    assert stored["source"].tolist() == sources
    assert stored["source"][0] is stored["source"][4]  # one text, not one a row
    names = [n for n in table if n != "id" and not n.startswith("reason@")]
    assert list(read_numbers(path)) == names
    for name in {*stored} & {*names}:
        np.testing.assert_array_equal(stored[name], table[name])
    assert {"row", "score_small", "score_target", "loss", "tokens"} <= {*stored}
    some = read_numbers(path, ("tokens", "loss"))
    assert list(some) == ["loss", "tokens", "selected@0.1", "selected@0.2"]


def test_no_rows(tmp_path):
    nothing = np.zeros(0)
    write_selection(
        tmp_path / "s", ids=[], rows=nothing.astype(int), scores={"effort": nothing}, selections={}
    )
    assert len(read_selection(tmp_path / "s")["id"]) == 0
    assert read_stored(tmp_path / "s")["id"] == ()


def test_missing_and_damaged_files_are_run_errors(tmp_path):
    with pytest.raises(RunError, match="is missing: put it back"):
        read_selection(tmp_path / "none.parquet")
    (tmp_path / "s.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(RunError, match="damaged"):
        read_selection(tmp_path / "s.parquet")


@pytest.mark.parametrize("read", [read_selection, read_numbers, read_stored])
def test_other_columns_or_types_are_damage(tmp_path, read):
    """Somebody else's run: its manifest may have the hash of any table."""
    path = tmp_path / "s.parquet"
    write(path, sources=["a"] * N)
    table = pq.read_table(path)
    texts, nothing = pa.array(["\u00e9"] * N), pa.nulls(N)
    others = [table.append_column("row", table["row"])]
    for at, name in enumerate(table.column_names):
        others.append(table.set_column(at, name, nothing))
        others.append(table.set_column(at, name, texts.cast(pa.large_string())))
        if name not in ("source", "selected@0.1", "selected@n4"):
            others.append(table.drop_columns([name]))
    for other in others:
        pq.write_table(other, path)
        with pytest.raises(RunError, match=r"s\.parquet is damaged: run staff select again"):
            read(path)
