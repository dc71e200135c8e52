import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from staff.errors import RunError
from staff.hashing import hash_file
from staff.runs.manifest import begin, hash_outputs, read_manifest, write_manifest
from staff.runs.shape import check_shape


def test_a_manifest_comes_back_as_plain_values(tmp_path):
    manifest = begin("select", {"keep": [0.1]}, seed=3)
    manifest["regions"] = [
        {
            "lower": np.float64(0.1) / 3,
            "upper": np.float32(1),
            "size": np.int64(4),
            "verified": 0,
            "ratio": np.nan,
            "interval": (np.inf, 1.0),
            "flagged": np.True_,
            "budgets": {},
        }
    ]
    manifest["data"] = {"path": Path("a/b"), "format": "text", "rows_read": 4, "rows_usable": 4}
    manifest["data"]["sha256"] = "0"
    manifest["cut"], manifest["config"]["regions"] = {"rows": 0, "threshold": 1.0}, 4
    manifest["coresets"] = []
    manifest["of my own"] = np.array([1, 2])
    write_manifest(tmp_path / "manifest.json", manifest)
    read = read_manifest(tmp_path)
    [region] = read["regions"]
    assert (region["lower"], region["size"]) == (0.1 / 3, 4)
    assert (region["ratio"], region["interval"], region["flagged"]) == (None, [None, 1.0], True)
    assert (read["data"]["path"], read["of my own"]) == ("a/b", [1, 2])
    assert (read["format"], read["command"], read["seed"]) == (1, "select", 3)
    assert "torch" in read["versions"]
    json.loads((tmp_path / "manifest.json").read_text(), parse_constant=pytest.fail)


def test_outputs_are_hashed_by_content_under_relative_names(tmp_path):
    (tmp_path / "scores" / "small").mkdir(parents=True)
    (tmp_path / "scores" / "small" / "part").write_bytes(b"x" * 3_000_000)
    (tmp_path / "scores" / "small" / ".part.abc.part").write_bytes(b"half")  # of a killed process
    (tmp_path / "a.txt").write_bytes(b"")
    found = hash_outputs(tmp_path, ["a.txt", tmp_path / "scores"])
    assert list(found) == ["a.txt", "scores/small/part"]
    assert found["a.txt"] == hashlib.sha256(b"").hexdigest()
    assert found["scores/small/part"] == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert hash_file(tmp_path / "a.txt") == found["a.txt"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (None, "there is no run folder"),
        ({}, "not a staff run"),
        (
            {"config.yaml": "keep: 0.1"},
            r"not finished: resume with staff select --config .*config\.yaml",
        ),
        (
            {"config.yaml": "# staff 0.1.0; again: staff score --config y/config.yaml\ndata: d"},
            r"not finished: resume with staff score --config .*x/config\.yaml",
        ),
        ({"manifest.json": "{"}, "damaged"),
        ({"manifest.json": "[]"}, "not a staff manifest"),
        ({"manifest.json": '{"format": 99}'}, "newer version of staff"),
    ],
)
def test_what_is_no_finished_run_is_refused(tmp_path, files, words):
    folder = tmp_path / "x"
    if files is not None:
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
    with pytest.raises(RunError, match=words):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"regions": [{}]}, "regions.0.lower is missing"),
        ({"regions": [[]]}, "regions.0 has an unexpected value"),
        ({"data": {}}, "data.path is missing"),
        # Of several types, none of which it is: the key alone is named.
        ({"config": {"regions": "many"}}, "config.regions has an unexpected value"),
        ({"config": {"regions": [1]}}, "config.regions has an unexpected value"),
        (
            {"config": {"verify_per_region": {}}},
            "config.verify_per_region has an unexpected",
        ),
    ],
)
def test_the_key_of_a_mistake_is_named(changes, words):
    manifest = {"command": "select", "staff_version": "0", "created": "", "config": {}, "seed": 0}
    manifest |= {"data": dict.fromkeys(("path", "format", "sha256"), ""), "coresets": []}
    manifest["data"] |= {"rows_read": 1, "rows_usable": 1}
    check_shape(manifest, Path("x"))
    with pytest.raises(RunError, match=f"x is damaged: {words}"):
        check_shape(manifest | changes, Path("x"))
