"""Scores and adapters across runs: taken by content, whole or not at all."""

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from staff import select_coreset
from staff.cli.main import main
from staff.errors import RunError
from staff.runs.cache import FACTS, TAG, Cache

SETTINGS = {
    "prompt_column": "mr", "response_column": "ref", "epochs": 1, "regions": 4,
    "verify_per_region": 4, "keep": 0.2, "shard_rows": 16, "dtype": "float32",
}  # fmt: skip
NAMES = ("adapter_model.safetensors", "adapter_config.json", "loss.jsonl")


@pytest.fixture(scope="module")
def data(e2e_file):
    return e2e_file(40)


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache").open()


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes(name.encode() * 100)
    return folder


def test_a_second_run_elsewhere_computes_nothing(data, family, tmp_path):
    asked = {"small": family[0], "target": family[1], "cache": tmp_path / "cache", **SETTINGS}
    first = select_coreset(data, out=tmp_path / "a", **asked)
    moved = tmp_path / "renamed.jsonl"
    moved.write_bytes(data.read_bytes())
    stopped = tmp_path / "b" / ".adapter.partial" / "checkpoint-1"  # by an earlier start
    stopped.mkdir(parents=True)
    second = select_coreset(moved, out=tmp_path / "b", **asked)
    assert not stopped.parent.exists()
    made = {s["name"]: s["reused"] for s in second.manifest["stages"]}
    assert {name for name, reused in made.items() if reused} == {
        "fine-tune small", "score small", "verify on target",
    }  # fmt: skip
    for name in ("selection.parquet", "coreset-0.2.jsonl", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    # Three shards of the small model, one of the target, and the adapter.
    assert len(Cache(tmp_path / "cache").entries()) == 5
    third = select_coreset(data, out=tmp_path / "c", seed=1, **asked)
    assert not any(s["reused"] for s in third.manifest["stages"] if s["name"] == "score small")
    assert (
        first.manifest["files"]["selection.parquet"] != third.manifest["files"]["selection.parquet"]
    )


@pytest.mark.slow
def test_two_runs_at_once(data, family, tmp_path):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    started = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "staff",
                "select",
                str(data),
                "--small",
                family[0],
                "--target",
                family[1],
                "--out",
                str(tmp_path / name),
                "--cache",
                str(tmp_path / "cache"),
                *flags,
            ],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for name in "ab"
    ]
    for process in started:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    a, b = ((tmp_path / name / "selection.parquet").read_bytes() for name in "ab")
    assert a == b
    assert len(Cache(tmp_path / "cache").entries()) == 5
    assert not list((tmp_path / "cache").rglob(".*.part"))


def test_a_folder_that_others_are_opening_is_usable(tmp_path):
    """Many open the same new folder at once: none takes another's tag for a foreign file."""

    def open_all(wait):
        wait.wait()
        try:
            Cache(folder).open().keep_shard("key", shard)
        except RunError as error:
            said.append(str(error))

    said, shard = [], tmp_path / "shard"
    shard.write_bytes(b"scores")
    for number in range(100):
        folder, wait = tmp_path / f"cache-{number}", threading.Barrier(4)
        openers = [threading.Thread(target=open_all, args=(wait,)) for _ in range(4)]
        for opener in openers:
            opener.start()
        for opener in openers:
            opener.join()
    assert said == []


def test_shards_go_in_and_come_out(cache, tmp_path):
    (tmp_path / "shard").write_bytes(b"scores")
    assert not cache.fetch_shard("ab12", tmp_path / "out" / "part")
    assert not (tmp_path / "out" / "part").exists()
    cache.keep_shard("ab12", tmp_path / "shard")
    assert cache.fetch_shard("ab12", tmp_path / "out" / "part")
    assert (tmp_path / "out" / "part").read_bytes() == b"scores"


def test_a_shard_that_goes_while_it_is_read_is_missing(cache, tmp_path, monkeypatch):
    """As over NFS, where another machine prunes it."""
    (tmp_path / "shard").write_bytes(b"scores")
    cache.keep_shard("ab12", tmp_path / "shard")

    def gone(path):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Path, "read_bytes", gone)
    assert not cache.fetch_shard("ab12", tmp_path / "out" / "part")
    assert not (tmp_path / "out").exists()


def test_an_adapter_is_whole_or_absent(cache, adapter, tmp_path):
    out = tmp_path / "out"
    assert not cache.fetch_adapter("k", out, NAMES)
    cache.keep_adapter("k", adapter, NAMES)
    cache.keep_adapter("k", adapter, NAMES)  # is there already
    # As open to a group that shares the cache as anything else that is made there.
    (tmp_path / "usual").mkdir()
    modes = {path.stat().st_mode for path in (tmp_path / "usual", cache.path / "adapters" / "k")}
    assert len(modes) == 1
    assert cache.fetch_adapter("k", out, NAMES)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in adapter.iterdir()
    }
    (cache.path / "adapters" / "k" / NAMES[0]).write_bytes(b"damaged")
    assert not cache.fetch_adapter("k", out, NAMES)
    assert not out.exists()


def test_an_adapter_without_its_facts_is_replaced(cache, adapter, tmp_path):
    cache.keep_adapter("k", adapter, NAMES)
    (cache.path / "adapters" / "k" / FACTS).unlink()
    assert not cache.fetch_adapter("k", tmp_path / "out", NAMES)
    cache.keep_adapter("k", adapter, NAMES)
    assert cache.fetch_adapter("k", tmp_path / "out", NAMES)


@pytest.mark.parametrize("facts", ["{}", "[]", "1", '{"loss.jsonl": 3}', "{"])
def test_an_adapter_whose_facts_lack_files_is_replaced(cache, adapter, tmp_path, facts):
    cache.keep_adapter("k", adapter, NAMES)
    (cache.path / "adapters" / "k" / FACTS).write_text(facts)
    assert not cache.fetch_adapter("k", tmp_path / "out", NAMES)
    assert not (tmp_path / "out").exists()
    cache.keep_adapter("k", adapter, NAMES)
    assert cache.fetch_adapter("k", tmp_path / "out", NAMES)


def test_processes_that_replace_the_same_damaged_adapter(cache, adapter, tmp_path):
    faults = []

    def keep():
        try:
            for _ in range(20):
                (cache.path / "adapters" / "k" / FACTS).unlink(missing_ok=True)
                cache.keep_adapter("k", adapter, NAMES)
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=keep) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    cache.keep_adapter("k", adapter, NAMES)
    assert cache.fetch_adapter("k", tmp_path / "out", NAMES)
    assert not list(cache.path.rglob(".*.part"))


def test_an_entry_that_may_not_be_touched_serves(cache, adapter, tmp_path, monkeypatch):
    """Another user's: root may touch all files, so the system's refusal is stood in for."""
    (tmp_path / "shard").write_bytes(b"scores")
    cache.keep_shard("ab12", tmp_path / "shard")
    cache.keep_adapter("k", adapter, NAMES)

    def refuse(path, *_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    monkeypatch.setattr(os, "utime", refuse)
    assert cache.fetch_shard("ab12", tmp_path / "part")
    assert cache.fetch_adapter("k", tmp_path / "out", NAMES)


def test_a_cache_that_may_not_be_written_to_serves(cache, adapter, tmp_path, monkeypatch):
    """A team's, made by another user: its refusal must not cost a run what it has computed."""
    (tmp_path / "shard").write_bytes(b"scores")
    assert cache.keep_shard("ab12", tmp_path / "shard")
    assert cache.keep_adapter("k", adapter, NAMES)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert not cache.keep_shard("cd34", tmp_path / "shard")
    assert not cache.keep_adapter("l", adapter, NAMES)
    assert cache.keep_adapter("k", adapter, NAMES)  # is there already
    assert len(cache.entries()) == 2
    assert cache.fetch_shard("ab12", tmp_path / "part")
    assert cache.fetch_adapter("k", tmp_path / "out", NAMES)


def test_pruning_beside_a_run_that_writes(cache, tmp_path):
    (tmp_path / "shard").write_bytes(b"scores")
    done = threading.Event()

    def write():
        n = 0
        while not done.is_set():
            cache.keep_shard(f"{n % 20:02}", tmp_path / "shard")
            n += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            cache.prune(days=30)
    finally:
        done.set()
        writer.join()
    assert cache.entries()


def test_file_names_in_the_facts_do_not_lead_outside(cache, adapter, tmp_path):
    cache.keep_adapter("k", adapter, NAMES)
    facts = cache.path / "adapters" / "k" / FACTS
    facts.write_text('{"../../../../etc/passwd": "0"}')
    assert not cache.fetch_adapter("k", tmp_path / "out", NAMES)


@pytest.fixture
def filled(cache, adapter, tmp_path):
    """Three entries, used 40, 20 and 0 days ago; 1 kB, 2 kB and an adapter."""
    (tmp_path / "shard").write_bytes(bytes(1000))
    cache.keep_shard("aa", tmp_path / "shard")
    (tmp_path / "shard").write_bytes(bytes(2000))
    cache.keep_shard("bb", tmp_path / "shard")
    cache.keep_adapter("cc", adapter, NAMES)
    for key, days in (("aa", 40), ("bb", 20)):
        then = time.time() - days * 86400
        os.utime(cache.path / "scores" / f"{key}.parquet", (then, then))
    return cache


def test_pruning_by_age_and_size(filled):
    assert [entry.key for entry in filled.entries()] == ["aa", "bb", "cc"]
    assert [entry.key for entry in filled.prune(days=30)] == ["aa"]
    assert [entry.key for entry in filled.prune(gigabytes=1)] == []
    assert [entry.key for entry in filled.prune(gigabytes=7e-6)] == ["bb"]
    assert [entry.key for entry in filled.prune(days=0, gigabytes=0)] == ["cc"]
    assert (filled.path / TAG).is_file()


def test_what_is_used_again_is_kept(filled, tmp_path):
    assert filled.fetch_shard("aa", tmp_path / "out")
    assert [entry.key for entry in filled.prune(days=10)] == ["bb"]


def test_pruning_takes_what_a_killed_process_left_but_nothing_new(filled):
    old, new = (filled.path / "scores" / f".{name}.part" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    adapter = filled.path / "adapters" / ".cc.part"  # about to be renamed
    adapter.mkdir()
    (adapter / FACTS).write_text("{}")
    assert len(filled.entries()) == 3
    filled.prune(days=1000)
    assert (old.exists(), new.exists()) == (False, True)
    filled.prune(days=0, gigabytes=0)
    assert adapter.exists()


def test_commands(filled, capsys):
    assert main(["cache", "ls", str(filled.path)]) == 0
    said = capsys.readouterr().out
    assert "3 entries" in said
    assert said.index("scores") < said.index("adapters")
    assert main(["cache", "prune", str(filled.path), "--days", "30"]) == 0
    assert capsys.readouterr().out == "1 entry removed, 0.0 MB freed\n"
    assert main(["cache", "prune", str(filled.path)]) == 2
    assert "give --days N or --gigabytes N" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["scores", "adapters"])
def test_a_link_in_a_cache_is_not_followed(cache, tmp_path, capsys, kind):
    """Whoever shares a cache could have other people's files pruned."""
    outside = tmp_path / "outside"
    (outside / "x").mkdir(parents=True)
    for name in ("a.parquet", f"x/{FACTS}", "x/precious"):
        (outside / name).write_text("{}")
        os.utime(outside / name, (0, 0))
    (cache.path / kind).symlink_to(outside)
    for command in (["ls"], ["prune", "--days", "1"]):
        assert main(["cache", command[0], str(cache.path), *command[1:]]) == 5
        assert f"{cache.path / kind} is a link, and is not followed" in capsys.readouterr().err
    with pytest.raises(RunError, match="is a link, and is not followed"):
        cache.open()
    assert len([path for path in outside.rglob("*") if path.is_file()]) == 3


def test_another_folder_is_no_cache(tmp_path, capsys):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match="holds other files: give a folder of its own"):
        Cache(tmp_path).open()
    assert main(["cache", "prune", str(tmp_path), "--days", "0"]) == 5
    assert "is not a staff cache" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
