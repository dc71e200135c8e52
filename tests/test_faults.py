"""What goes wrong around a run: permissions, files that change under it, numbers that are none.

The table in docs/reliability.md names these tests and those of other files.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest

from staff import select_coreset, single
from staff.cli.main import main
from staff.data.files import open_source
from staff.errors import ConfigError, DataError, ModelError, RunError, StaffError
from staff.progress import SilentProgress
from staff.reports.text import render
from staff.runs.config import ScoreConfig
from staff.runs.manifest import read_manifest
from staff.stages import scoring
from staff.stages.lazy_scorer import LazyScorer
from staff.training.divergence import check_converged

ROWS = 60
COLUMNS = {"prompt_column": "mr", "response_column": "ref"}
SETTINGS = {
    **COLUMNS,
    "keep": 0.1,
    "regions": 4,
    "verify_per_region": 3,
    "skip_finetune": True,
    "dtype": "float32",
}


@pytest.fixture
def data(tmp_path, e2e_file):
    return e2e_file(ROWS, tmp_path / "train.jsonl")


@pytest.fixture
def select(data, tmp_path, family):
    """`select_coreset` of the data with the embedded models, into `out`."""
    models = dict(zip(("small", "target"), family, strict=True))
    return lambda **changes: select_coreset(
        data, **{"out": tmp_path / "out", **models, **SETTINGS, **changes}
    )


class Doing(SilentProgress):
    """Does something when a stage begins."""

    def __init__(self, stage, act):
        self.at, self.act = stage, act

    def stage(self, name, **settings):
        if name == self.at:
            self.act()
        return super().stage(name, **settings)


RANDOM = ["--method", "random", "--keep", "0.5"]


@pytest.fixture
def bound(data, tmp_path, monkeypatch):
    """`staff` in a process that permissions hold for, in a folder with `train.jsonl`.

    The tests may run as root, whom no permission stops: its power to pass them by is taken away.
    """
    monkeypatch.chdir(tmp_path)
    start = [sys.executable, "-m", "staff"]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("taking root's power away takes setpriv")
        less = "-dac_override,-dac_read_search"
        start = ["setpriv", f"--bounding-set={less}", f"--inh-caps={less}", *start]

    def run(*arguments):
        paths = os.pathsep.join(path for path in sys.path if path)
        done = subprocess.run(
            [*start, *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
        return done.returncode, done.stderr

    yield run
    for path in tmp_path.rglob("*"):
        path.chmod(0o755)


def test_a_folder_that_may_not_be_written_to(bound, tmp_path):
    (tmp_path / "runs").mkdir(mode=0o555)
    said = bound("select", "train.jsonl", *RANDOM, "--out", "runs/x")
    assert said == (1, f"error: runs/x: no permission to write to {tmp_path / 'runs'}\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["select", "a.jsonl", *RANDOM], 3, "cannot read a.jsonl: Permission denied"),
        (
            ["select", "train.jsonl", *RANDOM, "--include", "a.jsonl"],
            3,
            "cannot read a.jsonl: Permission denied",
        ),
        (["select", "--config", "a.jsonl"], 2, "cannot read a.jsonl: Permission denied"),
        (["report", "run"], 1, "run/manifest.json: Permission denied"),
        # A folder beside it that may not be looked into is none of data.
        (["select", "disk", *RANDOM], 3, "cannot read disk/a.jsonl: Permission denied"),
    ],
)
def test_a_file_that_may_not_be_read(bound, tmp_path, arguments, code, message):
    (tmp_path / "run").mkdir()
    (tmp_path / "disk" / "lost+found").mkdir(parents=True)
    (tmp_path / "disk" / "lost+found").chmod(0)
    for name in ("a.jsonl", "run/manifest.json", "disk/a.jsonl"):
        (tmp_path / name).write_text("{}")
        (tmp_path / name).chmod(0)
    out = [] if arguments[0] == "report" else ["--out", "out"]
    assert bound(*arguments, *out) == (code, f"error: {message}\n")
    assert not (tmp_path / "out").exists()


def test_a_finished_run_in_a_closed_folder_is_still_told_of(bound, data, tmp_path):
    select_coreset(data, method="random", keep=0.5, out=tmp_path / "run", **COLUMNS)
    (tmp_path / "run").chmod(0o555)
    code, said = bound("report", "run")
    assert (code, said) == (1, "error: cannot write run/report.html: Permission denied\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system takes root")
def test_a_read_only_file_system(data, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        with pytest.raises(StaffError, match=r"x: no permission to write to .*disk") as caught:
            select_coreset(data, method="random", keep=0.5, out=disk / "x", **COLUMNS)
        assert caught.value.exit_code == 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_data_removed_in_mid_run(select, data, tmp_path):
    saved = data.read_bytes()
    with pytest.raises(DataError, match=r"cannot read .*train\.jsonl: No such file"):
        select(progress=Doing("score small", data.unlink))
    assert not (tmp_path / "out" / "manifest.json").exists()
    data.write_bytes(saved)
    stages = {stage["name"]: stage["reused"] for stage in select().manifest["stages"]}
    assert stages["score small"]  # the scores were kept


def test_data_changed_in_mid_run(select, data, tmp_path):
    def swap():
        lines = data.read_text(encoding="utf-8").splitlines()
        data.write_text("\n".join(reversed(lines)) + "\n", encoding="utf-8")

    with pytest.raises(DataError, match="changed while it was read: run the same command again"):
        select(progress=Doing("score small", swap))
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(RunError, match="was made from other contents: the data"):
        select()  # what is there is of the data as they were
    assert select(overwrite=True).manifest["data"]["rows_usable"] == ROWS


def test_data_that_change_while_they_are_read_and_come_back(select, data, tmp_path):
    """Rows of the other data must not pass for those that were hashed."""
    text = data.read_text(encoding="utf-8")

    def swap():
        data.write_text("\n".join(reversed(text.splitlines())) + "\n", encoding="utf-8")

    with pytest.raises(DataError, match="changed while it was read: run the same command again"):
        select(progress=Doing("read", swap))
    data.write_text(text, encoding="utf-8")
    found = select()
    records = text.splitlines()
    coreset = (found.folder / "coreset-0.1.jsonl").read_text(encoding="utf-8").splitlines()
    chosen = found.table()["row"][found.table()["selected@0.1"]]
    assert coreset == [records[row] for row in sorted(chosen)]
    whole = select(out=tmp_path / "whole")
    for name in ("selection.parquet", "coreset-0.1.jsonl"):
        assert (found.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_scoring_data_that_change_while_they_are_read(data, family, tmp_path):
    config = {"data": str(data), "model": family[0], "out": str(tmp_path / "s"), **COLUMNS}
    swapped = Doing("read", lambda: data.write_text('{"mr": "a", "ref": "b"}\n' * 3))
    with pytest.raises(DataError, match="changed while it was read"):
        single.score(ScoreConfig(**config), progress=swapped)
    assert single.score(ScoreConfig(**config))["data"]["rows_usable"] == 3


def test_other_versions_score_again(select, monkeypatch):
    chosen = (select().folder / "selection.parquet").read_bytes()
    versions = scoring.versions_of
    monkeypatch.setattr(scoring, "versions_of", lambda *n: versions(*n) | {"torch": "0.0"})
    monkeypatch.setattr("staff.runs.again.versions", lambda: {"torch": "0.0"})
    again = select()
    reused = {stage["name"]: stage["reused"] for stage in again.manifest["stages"]}
    assert not reused["score small"]
    assert not reused["verify on target"]
    assert (again.folder / "selection.parquet").read_bytes() == chosen


def test_another_seed_keeps_scores_that_do_not_hang_on_it(select):
    select()
    again = select(seed=5)
    reused = {stage["name"]: stage["reused"] for stage in again.manifest["stages"]}
    assert reused["score small"]
    drawn = {"phi": "last-value-lora", "overwrite": True}
    select(**drawn)
    with pytest.raises(RunError, match="was made with seed = 0, now it is 5"):
        select(**{**drawn, "overwrite": False}, seed=5)


def test_a_command_that_cannot_be_met_leaves_a_finished_run_as_it_is(select, tmp_path):
    run = select()
    wanted = tmp_path / "wanted.txt"
    wanted.write_text("".join(f"{name}\n" for name in run.table()["id"][:4]))
    before = {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file() and p.name != ".lock"}
    again = select_coreset(scores=run.folder, out=tmp_path / "again", total=3)
    before |= {p: p.read_bytes() for p in again.folder.rglob("*.jsonl")}
    asked = {"total": 3, "include": str(wanted)}
    for act in (
        lambda: select(keep=(), **asked),
        lambda: select_coreset(scores=run.folder, out=again.folder, **asked),
    ):
        with pytest.raises(ConfigError, match="3 rows cannot contain the 4 rows to include"):
            act()
    assert again.folder.joinpath("manifest.json").is_file()
    assert {p: p.read_bytes() for p in before} == before


def test_the_run_folder_removed_in_mid_run(select, tmp_path):
    with pytest.raises(RunError, match=r"out was removed or emptied .*run the same command again"):
        select(progress=Doing("verify on target", lambda: shutil.rmtree(tmp_path / "out")))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_an_adapter_removed_in_mid_run(select, tmp_path, data, family):
    from staff import single
    from staff.runs.config import FinetuneConfig

    adapter = tmp_path / "adapter"
    config = {"data": str(data), "model": family[0], "out": str(adapter), "max_steps": 1}
    single.finetune(FinetuneConfig(**config, **COLUMNS))
    with pytest.raises(ModelError, match=r"adapter .* does not exist here"):
        select(
            adapter=str(adapter),
            skip_finetune=False,
            progress=Doing("read", lambda: shutil.rmtree(adapter)),
        )


@pytest.mark.parametrize("content", ["{", "[" * 200_000], ids=["cut short", "too deep"])
def test_damaged_notes_of_earlier_starts_are_made_again(select, tmp_path, content):
    first = select(skip_finetune=False, epochs=1)
    for name in (
        *(".stages.json", ".inputs.json", "adapter/staff.json", "manifest.json"),
        *(".manifest.earlier.json", "tokens/prepared.json"),
        ".adapter.partial/checkpoint-1/staff.json",
    ):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text(content)
    run = select(skip_finetune=False, epochs=1)
    reused = {stage["name"]: stage["reused"] for stage in run.manifest["stages"]}
    assert reused["fine-tune small"] is False
    assert run.manifest["files"] == first.manifest["files"]


@pytest.mark.parametrize("old", [False, True])
def test_an_adapter_changed_between_two_starts_is_made_again(select, tmp_path, old):
    first = select(skip_finetune=False, epochs=1).manifest["files"]
    adapter = tmp_path / "out" / "adapter"
    if old:  # a note without the files' hashes
        note = json.loads((adapter / "staff.json").read_text())
        (adapter / "staff.json").write_text(json.dumps({"made_from": note["made_from"]}))
    else:
        weights = bytearray((adapter / "adapter_model.safetensors").read_bytes())
        weights[-1] ^= 1
        (adapter / "adapter_model.safetensors").write_bytes(weights)
    again = select(skip_finetune=False, epochs=1).manifest
    reused = {stage["name"]: stage["reused"] for stage in again["stages"]}
    assert reused["fine-tune small"] is False
    assert again["files"] == first


@pytest.fixture
def spoil(monkeypatch):
    """Makes the scores of some rows infinite on the small model, or on the target."""

    def spoil(rows, *, model):
        original = LazyScorer.__call__

        def call(self, batch):
            columns = original(self, batch)
            if self.model == model:
                hit = np.isin(batch.rows.numpy(), rows)
                columns["effort"] = np.where(hit, np.inf, columns["effort"])
            return columns

        monkeypatch.setattr(LazyScorer, "__call__", call)

    return spoil


def test_a_row_without_a_finite_score_is_named_and_never_chosen(
    select, spoil, family, tmp_path, capsys
):
    spoil([17], model=family[0])
    run = select(keep=None, total=ROWS - 1)
    table = run.table()
    assert table["reason@n59"][17] == "rejected"
    assert not table["selected@n59"][17]
    assert table["selected@n59"].sum() == ROWS - 1
    assert np.isnan([table[name][17] for name in ("score_small", "loss", "region")]).all()
    named = {"row": 17, "id": table["id"][17]}
    assert run.manifest["not_finite"] == {"small": {"rows": 1, "first": [named]}}
    said = render(run.manifest, folder="out", width=200)
    assert f"Rejected  no finite score (small): 1 row, 17 (id {named['id']})" in said
    assert "1 row without a finite score" in (run.folder / "report.html").read_text()
    capsys.readouterr()
    assert main(["why", str(run.folder), "--row", "17"]) == 0
    assert "its score is not a finite number" in " ".join(capsys.readouterr().out.split())
    assert main(["why", str(run.folder), "--row", "18"]) == 0
    assert "of 59 from the hardest" in " ".join(capsys.readouterr().out.split())

    again = select_coreset(scores=run.folder, total=30, method="grand", out=tmp_path / "again")
    assert again.table()["reason@n30"][17] == "rejected"
    assert again.manifest["not_finite"] == run.manifest["not_finite"]
    with pytest.raises(StaffError, match="a coreset of 60 rows cannot be made: only 59 rows"):
        select_coreset(scores=run.folder, total=ROWS, out=tmp_path / "all")


def test_too_many_rows_without_a_finite_score_stop_the_run(select, spoil, family, tmp_path):
    spoil([17, 18], model=family[0])
    with pytest.raises(
        ModelError, match=r"scores of 2 of 60 rows are not finite: row 17 .* Likely"
    ):
        select()
    assert not (tmp_path / "out").exists()


def test_a_target_without_a_finite_score_for_one_row(select, spoil, family):
    """That region's ratio counts for nothing; the row is named."""
    verified = np.flatnonzero(select().table()["verified"])
    spoil(verified[:1], model=family[1])
    run = select(overwrite=True)
    assert run.manifest["not_finite"]["verify on target"]["rows"] == 1
    assert sum(region["flagged"] for region in run.manifest["regions"]) == 1
    assert run.manifest == read_manifest(run.folder)  # types of JSON, not of NumPy


@pytest.mark.parametrize(
    "losses",
    [[3.0, 2.0], [3.0] * 9, [3.0, 2.5, 2.0, 1.5, 9.0, 1.0, 1.0, 0.9, 1.0], [0.01] * 6 + [0.3] * 6],
)
def test_a_loss_that_falls_or_jumps_once_has_not_diverged(losses):
    check_converged(losses)


def test_a_loss_that_rises_has_diverged():
    with pytest.raises(StaffError, match="the training loss rose from 3 to 8"):
        check_converged([3.0, 3.1, 3.0, 5.0, 6.0, 7.0, 8.0, 8.0, 8.5])


def test_a_fine_tuning_that_diverges_leaves_nothing(data, family, tmp_path, capsys):
    command = ["finetune", str(data), "--model", family[0], "--out", str(tmp_path / "tuned")]
    command += ["--prompt-column", "mr", "--response-column", "ref", "--learning-rate", "0.3"]
    assert main([*command, "--max-steps", "12", "--quiet"]) == 1
    said = capsys.readouterr().err
    assert "fine-tuning diverged: the training loss rose from" in said
    assert "lower --learning-rate" in said
    assert not (tmp_path / "tuned").exists()


def test_a_first_run_that_diverges_leaves_no_folder(data, family, tmp_path, capsys):
    out = tmp_path / "runs" / "x"
    command = ["select", str(data), "--small", family[0], "--target", family[1], "--out", str(out)]
    command += ["--prompt-column", "mr", "--response-column", "ref", "--learning-rate", "3"]
    command += ["--keep", "0.2", "--epochs", "1", "--quiet"]
    assert main(command) == 1
    assert "fine-tuning diverged" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def rows_file(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def run_on(path, family, tmp_path, **changes):
    models = dict(zip(("small", "target"), family, strict=True))
    settings = {"keep": 1.0, "skip_finetune": True, "regions": 3, "verify_per_region": 2}
    return select_coreset(path, **models, out=tmp_path / "out", **settings | changes)


def test_a_row_of_a_million_characters(family, tmp_path):
    long = {"prompt": "word " * 10, "response": "so on and on " * 80_000}
    path = rows_file(tmp_path / "a.jsonl", long, {"prompt": "a", "response": "b"})
    run = run_on(path, family, tmp_path)
    assert run.manifest["data"]["truncated"] == 1
    assert run.coresets["1"].read_bytes() == path.read_bytes()


def test_one_row(family, tmp_path):
    path = rows_file(tmp_path / "a.jsonl", {"prompt": "a", "response": "b"})
    run = run_on(path, family, tmp_path, skip_finetune=False, epochs=1)
    assert run.coresets["1"].read_bytes() == path.read_bytes()


@pytest.mark.parametrize("method", ["staff", "ccs", "d2", "k-centre", "moderate", "grand", "ifd"])
def test_rows_that_are_all_equal(family, tmp_path, method):
    """All scores are equal, too."""
    path = rows_file(tmp_path / "a.jsonl", *[{"prompt": "a", "response": "b"}] * 20)
    run = run_on(path, family, tmp_path, keep=0.5, method=method)
    assert run.manifest["data"]["duplicates"] == 19
    assert run.table()["selected@0.5"].sum() == 10


def test_unicode_of_every_kind(family, tmp_path):
    texts = [
        "e\u0301 é ﬁ", "שלום \u202eabc\u202c", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "a\0b",
        "\ufeffmark", "\u2028\u2029\x85\x0b\x0c", "\U0010ffff\ue000\ufffe", "क्षि", "a\r\nb\rc", "\x1b[31m",
    ]  # fmt: skip
    path = rows_file(tmp_path / "a.jsonl", *[{"prompt": t, "response": t + "."} for t in texts])
    run = run_on(path, family, tmp_path)
    assert run.coresets["1"].read_bytes() == path.read_bytes()
    for name in ("csv", "parquet", "json"):
        again = select_coreset(path, method="random", keep=1.0, out=tmp_path / name, format=name)
        written = [row.record for row in open_source(again.coresets["1"]).records()]
        assert written == [row.record for row in open_source(path).records()]


def test_columns_with_half_characters_are_written_or_refused(tmp_path):
    """A column's name that is no text: JSON can hold it, CSV and Parquet cannot."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a", "response": "b", "\\ud800": "\\udfff"}\n' * 2)
    for format, fails in (("jsonl", False), ("json", False), ("csv", True), ("parquet", True)):
        settings = {"method": "random", "keep": 0.5, "out": tmp_path / format, "format": format}
        expected = pytest.raises(DataError, match="Write them as jsonl") if fails else nullcontext()
        with expected:
            select_coreset(path, **settings)


def test_nulls_in_nulls_are_kept(tmp_path):
    record = {"prompt": "a", "response": "b", "more": {"x": None, "y": [None, {"z": None}]}}
    path = rows_file(tmp_path / "a.jsonl", record, record | {"more": None})
    run = select_coreset(path, method="random", keep=1.0, out=tmp_path / "o", format="json")
    assert [row.record["more"] for row in open_source(run.coresets["1"]).records()] == [
        record["more"],
        None,
    ]


def test_numbers_that_json_has_no_name_for_are_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a", "response": "b", "x": NaN, "y": 1e999}\n')
    run = select_coreset(path, method="random", keep=1.0, out=tmp_path / "o")
    assert run.coresets["1"].read_bytes() == path.read_bytes()
    assert math.isnan(next(open_source(path).records()).record["x"])
