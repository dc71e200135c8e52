"""Scoring on a real Ray cluster: two workers on this machine, or two nodes. `make test-ray`."""

import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pytest

from staff.cli.main import main
from staff.cli.progress import PlainProgress
from staff.data.store import TokenStore
from staff.errors import ConfigError, ModelError, StaffError
from staff.hashing import versions_of
from staff.models.folder import model_hash
from staff.models.trust import NO_TRUST
from staff.scores import ray as on_ray
from staff.scores import ray_cluster
from staff.scores.run import score_rows
from staff.stages.elsewhere import check_same
from staff.types import IGNORE, TokenisedExample

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: make test-ray")
OUTPUTS = ("coreset-0.2.jsonl", "selection.parquet")
ROWS = 160


@pytest.fixture(scope="module")
def data(e2e_file):
    return str(e2e_file(ROWS))


@pytest.fixture(scope="module")
def select(data, family):
    """`staff select` of the data, in twenty shards of the small model and more of the target."""
    small, target = family
    return [
        sys.executable, "-m", "staff", "select", data, "--small", small, "--target", target,
        "--keep", "0.2", "--prompt-column", "mr", "--response-column", "ref", "--regions", "4",
        "--cut", "0", "--verify-per-region", "4", "--skip-finetune", "--shard-rows", "8",
        "--features", "--dtype", "float32",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def alone(select, tmp_path_factory):
    """What one process leaves."""
    out = tmp_path_factory.mktemp("alone") / "run"
    done = subprocess.run([*select, "--out", str(out)], check=True, capture_output=True, text=True)
    (out / "printed").write_text(done.stdout)
    (out / "said").write_text(done.stderr)
    return out


def scores(out):
    return {p.relative_to(out): p.read_bytes() for p in sorted(out.glob("scores/*/*.parquet"))}


def assert_same(one, other):
    assert scores(one) == scores(other)
    for name in OUTPUTS:
        assert (one / name).read_bytes() == (other / name).read_bytes()


def until(found, process, seconds=240):
    """The first true thing that is found while a process runs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := found():
            return result
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    raise AssertionError("nothing was found")


def stopped_at_work(out):
    """A worker, stopped in the middle of a shard; None where all are between two."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if not scores_now(process, out):
                continue
            process.suspend()
            if scores_now(process, out):
                return process
            process.resume()
    return None


def scores_now(process, out):
    """Whether a process has the run's tokens open and is in a call (its title says so)."""
    if not " ".join(process.cmdline()).startswith("ray::MapWorker(MapBatches(Worker)).submit"):
        return False
    return any(str(out) in file.path for file in process.open_files())


@pytest.fixture(scope="module")
def place():
    """Where Ray puts its files: a short path, since sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        before = os.environ.get("RAY_TMPDIR")
        os.environ["RAY_TMPDIR"] = folder
        yield Path(folder)
        os.environ.pop("RAY_TMPDIR")
        if before is not None:
            os.environ["RAY_TMPDIR"] = before


def start(select, out, *more, **environment):
    return subprocess.Popen(
        [*select, "--out", str(out), "--executor", "ray", *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip


def parts(out):
    return list(out.glob("scores/small/*.parquet"))


@needs_ray
def test_a_worker_that_is_killed_leaves_the_bytes_of_a_local_run(select, alone, tmp_path, place):
    out = tmp_path / "run"
    process = start(select, out, "--workers", "2")
    until(lambda: parts(out), process)
    killed = until(lambda: stopped_at_work(out), process)
    killed.kill()
    done = len(parts(out))
    printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert 0 < done < ROWS // 8
    assert "score small: a worker died, and its shard was scored again" in said
    assert_same(out, alone)
    local = {name: (alone / name).read_text() for name in ("printed", "said")}
    assert shape(printed, out) == shape(local["printed"], alone)
    assert stages_told(said) == stages_told(local["said"])  # and nothing of Ray's
    assert list(place.iterdir()) == []


def shape(text, out):
    """What is printed of a run, but for times and its place."""
    words = text.replace(str(out), "RUN").split()
    return [word for word in words if not any(c.isdigit() for c in word) and word not in "s min"]


def stages_told(said):
    return {line.partition(":")[0] for line in said.splitlines()}


@needs_ray
def test_a_run_that_is_killed_goes_on_where_it_was(select, alone, tmp_path, place):
    out = tmp_path / "run"
    process = start(select, out, "--workers", "2")
    until(lambda: len(parts(out)) > 2, process)
    found = psutil.Process(process.pid).children(recursive=True)
    # Agents of Ray's go later, by themselves; they do nothing.
    working = [p for p in found if p.name().startswith(("ray::MapWorker", "raylet", "gcs_server"))]
    process.kill()
    process.communicate()
    assert len(working) == 4
    _, left = psutil.wait_procs(working, timeout=60)
    assert left == []  # no worker goes on for nobody
    kept = {path: path.stat().st_ino for path in parts(out)}
    assert 2 < len(kept) < ROWS // 8

    process = start(select, out, "--workers", "2")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert {path: path.stat().st_ino for path in kept} == kept
    assert_same(out, alone)
    for folder in place.iterdir():  # of the one that was killed
        shutil.rmtree(folder, ignore_errors=True)


@needs_ray
def test_a_cluster_that_is_there_may_lose_a_machine(select, alone, tmp_path, place):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    try:
        out = tmp_path / "run"
        process = start(select, out, RAY_ADDRESS=cluster.address)
        until(lambda: parts(out), process)
        killed = until(lambda: stopped_at_work(out), process)
        [lost] = [node for node in nodes if raylet_of(node) in {p.pid for p in killed.parents()}]
        cluster.remove_node(lost, allow_graceful=False)
        killed.kill()  # it was stopped, and could not see that its machine is gone
        cluster.add_node(num_cpus=1)
        _, said = process.communicate(timeout=400)
        assert process.returncode == 0, said
        assert "a worker died, and its shard was scored again" in said
        assert_same(out, alone)
        [other] = [node for node in nodes if node is not lost]
        assert psutil.pid_exists(raylet_of(other))  # it is not ours to stop
    finally:
        cluster.shutdown()


def raylet_of(node):
    return node.all_processes["raylet"][0].process.pid


@pytest.fixture
def store(tmp_path):
    generator = np.random.default_rng(0)
    path = tmp_path / "tokens.arrow"
    with TokenStore.write(path) as writer:
        for i in range(12):
            ids = generator.integers(3, 101, int(generator.integers(4, 21)))
            labels = np.where(np.arange(len(ids)) < len(ids) // 2, IGNORE, ids)
            writer.append([i], [TokenisedExample(f"id-{i}", ids, labels)])
    return TokenStore.open(path)


@pytest.fixture(scope="module")
def cluster(place):
    """Two workers on this machine, for several tests."""
    handler = signal.getsignal(signal.SIGTERM)
    with ray_cluster.session():
        ray_cluster.connected(2)
        assert signal.getsignal(signal.SIGTERM) is handler  # Ray has one of its own
        yield


def totals(fault=None):
    """A scorer that adds up tokens; on a batch with row 5 it does what `fault` does."""

    def score(batch):
        if fault and 5 in batch.rows:
            fault()
        total = (batch.input_ids * batch.attention_mask).sum(dim=1).numpy()
        return {"effort": total.astype(float), "features": total[:, None].astype("float32")}

    return score


def run(store, out, scorer, *, elsewhere=True, note=None, **changes):
    """Score in shards of two rows, on Ray or here."""
    options = {
        "scorer": scorer, "tokens": store.path, "data_hash": store.content_hash,
        "batch_tokens": 100, "rows": 12, "check": lambda: None, **changes,
    }  # fmt: skip
    job = partial(on_ray.score_parts, on_ray.Job(**options), workers=2, device="cpu")
    return score_rows(
        scorer, store, batch_tokens=100, shard_rows=2, out=out,
        elsewhere=job if elsewhere else None, progress=note,
        fingerprint={"scorer": "x", "model_hash": "m", "data_hash": "d"},
    )  # fmt: skip


@needs_ray
def test_columns_and_features_come_back_to_the_bit(cluster, store, tmp_path):
    far = run(store, tmp_path / "far", totals())
    run(store, tmp_path / "here", totals(), elsewhere=False)
    assert (far.rows, far.reused) == (12, 0)
    found = {p.name: p.read_bytes() for p in (tmp_path / "far").iterdir()}
    assert found == {p.name: p.read_bytes() for p in (tmp_path / "here").iterdir()}
    assert len(found) == 6


@needs_ray
def test_what_goes_wrong_on_a_worker_is_told_in_its_own_words(cluster, store, tmp_path):
    def refuse():
        raise ModelError("model folder x does not exist")

    def break_down():
        raise ValueError("two\nlines")

    with pytest.raises(ModelError, match=r"^model folder x does not exist$"):
        run(store, tmp_path / "a", totals(), check=refuse)
    with pytest.raises(RuntimeError) as raised:
        run(store, tmp_path / "c", totals(break_down))
    assert str(raised.value) == "ValueError: two"
    assert "in break_down" in raised.value.__notes__[0]
    with pytest.raises(StaffError, match="must be on a file system that all machines"):
        run(store, tmp_path / "d", totals(), tokens=tmp_path / "nothing")


@needs_ray
def test_a_shard_that_kills_every_worker_ends_the_run(cluster, store, tmp_path):
    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(
        StaffError, match="2 workers died at the same shard, most likely because memory"
    ):
        run(store, tmp_path / "s", totals(die), tries=2)
    assert 0 < len(list((tmp_path / "s").iterdir())) < 6  # the others are kept
    again = run(store, tmp_path / "s", totals())
    assert again.rows < 12
    assert again.table.known.all()


@needs_ray
def test_workers_halve_their_batches_and_say_so(cluster, store, tmp_path):
    def most(rows):
        def score(batch):
            if len(batch.rows) > rows:
                raise MemoryError
            return {"effort": batch.rows.numpy().astype(float)}

        return score

    log = io.StringIO()
    done = run(store, tmp_path / "s", most(1), note=PlainProgress(log))
    np.testing.assert_array_equal(done.table.columns["effort"], np.arange(12.0))
    assert "score: out of memory: continuing with batches of" in log.getvalue()


@needs_ray
def test_too_many_scores_that_are_not_finite_stop_a_run(cluster, store, tmp_path):
    def score(batch):
        return {"effort": np.where(batch.rows.numpy() % 3, 1.0, np.nan)}

    with pytest.raises(ModelError, match="of 12 rows are not finite"):
        run(store, tmp_path / "s", score)


@needs_ray
def test_an_address_where_no_cluster_is(select, tmp_path):
    """In processes of their own: in this one there may be a connection, which would be used."""
    client = start(select, tmp_path / "x", RAY_ADDRESS="ray://127.0.0.1:1")
    nobody = start(select, tmp_path / "x", RAY_ADDRESS="127.0.0.1:1")
    said = client.communicate(timeout=120)[1]
    assert client.returncode == 2
    assert "Ray Client cannot be used" in said
    said = nobody.communicate(timeout=120)[1]
    assert nobody.returncode == 1
    assert "cannot join a Ray cluster at RAY_ADDRESS=127.0.0.1:1: Connection refused" in said
    assert not (tmp_path / "x").exists()


def test_without_ray_it_is_said_how_to_get_it(data, family, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    for verb in (["score", data, "--model", family[0]],
                 ["select", data, "--small", family[0], "--target", family[1], "--keep", "0.2"]):  # fmt: skip
        assert main([*verb, "--out", str(tmp_path / "x"), "--executor", "ray"]) == 2
        assert "pip install 'staff-coreset[ray]'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="pip install"), ray_cluster.session():
        pass
    assert not (tmp_path / "x").exists()


def test_workers_are_rays(data, family, tmp_path, monkeypatch, capsys):
    score = ["score", data, "--model", family[0], "--out", str(tmp_path / "x"), "--workers", "2"]
    assert main(score) == 2
    assert "--workers 2 needs --executor ray" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*score, "--executor", "ray"]) == 2
    assert (
        "--executor ray uses its own workers: start staff without torchrun"
        in capsys.readouterr().err
    )


def test_a_worker_refuses_another_model_adapter_or_library(family, tmp_path):
    small, target = family
    made_from = {"versions": versions_of("torch"), "model_hash": model_hash(small)}
    check = partial(check_same, trust=NO_TRUST)
    check(made_from, model=small, adapter=None)
    with pytest.raises(ModelError, match="is not the same on a worker as where the run"):
        check(made_from, model=target, adapter=None)
    with pytest.raises(ModelError, match="does not exist"):
        check(made_from, model=str(tmp_path / "none"), adapter=None)
    with pytest.raises(ModelError, match="does not exist"):
        check(made_from, model=small, adapter=str(tmp_path / "none"))
    other = {**made_from, "versions": {"torch": "1.0"}}
    with pytest.raises(ModelError, match=r"has torch 2.*, and the run was started with 1\.0: inst"):
        check(other, model=small, adapter=None)
    other = {**made_from, "quantized by": {"safetensors": "0.0"}}  # a package that is there
    with pytest.raises(ModelError, match=r"has safetensors .*, and the run was started with 0\.0"):
        check(other, model=small, adapter=None)


def test_packed_columns_are_the_same_to_the_bit():
    columns = {
        "effort": np.array([0.1, np.nan, -0.0]),
        "features": np.arange(6, dtype=np.float32).reshape(3, 2) / 3,
    }
    found = on_ray.unpacked(on_ray.packed(columns))
    assert {k: (v.dtype, v.shape, v.tobytes()) for k, v in found.items()} == {
        k: (v.dtype, v.shape, v.tobytes()) for k, v in columns.items()
    }
