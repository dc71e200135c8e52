"""Several real processes at one run, as torchrun starts them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from staff.data.files import open_source
from staff.errors import (
    ConfigError,
    DataError,
    ModelError,
    ProcessGoneError,
    RunError,
    StaffError,
)
from staff.ledger import StageRecord
from staff.models.quantised import LIBRARIES
from staff.models.trust import NO_TRUST
from staff.runs.config import ScoreConfig
from staff.stages import elsewhere, orders, reading
from staff.stages.facts import model_facts, tokenisers_of
from staff.stages.following import obey
from staff.stages.lazy_scorer import LazyScorer
from staff.stages.scoring import Rounds, score, settled
from staff.team import Team

PROCESSES = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
STAFF = ["-m", "staff"]
OUTPUTS = ("coreset-0.2.jsonl", "selection.parquet")


@pytest.fixture(scope="module")
def data(e2e_file):
    return str(e2e_file(79))


@pytest.fixture(scope="module")
def select(data, family):
    """`staff select` of the data; add ``--out``."""
    small, target = family
    return [
        *STAFF, "select", data, "--small", small, "--target", target, "--keep", "0.2",
        "--prompt-column", "mr", "--response-column", "ref", "--regions", "4", "--cut", "0",
        "--verify-per-region", "4", "--skip-finetune", "--shard-rows", "8", "--dtype", "float32",
    ]  # fmt: skip


def scores(out):
    return {p.relative_to(out): p.read_bytes() for p in sorted(out.glob("scores/*/*.parquet"))}


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
def test_two_processes_leave_what_one_does_and_a_killed_one_is_told_of(select, finish, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    finish(*select[len(STAFF) :], "--out", str(one))

    process = subprocess.Popen(
        [*PROCESSES, *select, "--out", str(two)], stderr=subprocess.PIPE, text=True
    )
    said = ""
    for line in process.stderr:
        said += line
        if line.startswith("score small") and "…" in line:
            os.kill(child_of_rank_one(process.pid), signal.SIGKILL)
            break
    said += process.stderr.read()
    assert process.wait(timeout=120) != 0
    assert "run the same command again" in said
    assert not (two / "manifest.json").exists()
    kept = {p: p.stat().st_ino for p in two.glob("scores/small/*.parquet")}

    done = subprocess.run(
        [*PROCESSES, *select, "--out", str(two)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {p: p.stat().st_ino for p in kept} == kept
    assert done.stdout.count("The target scored") == 1  # one of them tells
    assert ", 2 processes, " in done.stdout
    assert scores(two) == scores(one)
    for name in OUTPUTS:
        assert (two / name).read_bytes() == (one / name).read_bytes()
    manifest = json.loads((two / "manifest.json").read_text())
    [verified] = [s for s in manifest["stages"] if s["name"] == "verify on target"]
    assert not verified["reused"]


def test_two_processes_fine_tune_as_one_does(select, finish, tmp_path):
    """Three rows a batch, and one in the last: then one process has none.

    As Slurm starts them: accelerate would take PMI_SIZE for processes of its own.
    """
    tuned = [part for part in select if part != "--skip-finetune"]
    tuned += ["--epochs", "1", "--batch-size", "3", "--learning-rate", "0.01"]
    found = {}
    finish(*tuned[len(STAFF) :], "--out", str(tmp_path / "one"))
    command = [*PROCESSES, *tuned, "--out", str(tmp_path / "two")]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PMI_SIZE": "2"})
    for name in ("one", "two"):
        out = tmp_path / name
        columns = pq.read_table(out / "selection.parquet")
        found[name] = np.array(columns["score_small"])
        losses = (out / "adapter" / "loss.jsonl").read_text().splitlines()
        found[f"{name} losses"] = np.array([json.loads(line)["loss"] for line in losses])
    assert len(found["one losses"]) == 27  # 79 rows, three a step
    np.testing.assert_allclose(found["two losses"], found["one losses"], atol=2e-4)
    np.testing.assert_allclose(found["two"], found["one"], rtol=1e-3)
    assert (
        np.corrcoef(found["one"].argsort().argsort(), found["two"].argsort().argsort())[0, 1] > 0.99
    )


@pytest.mark.slow
def test_rows_that_come_in_rounds_are_shared_too(select, tmp_path):
    command = list(select)
    for flag, value in (("--verify-per-region", "auto"), ("--shard-rows", "3")):
        command[command.index(flag) + 1] = value
    command += ["--verify-tolerance", "0.004"]
    one, two = tmp_path / "one", tmp_path / "two"
    for start, out in (([sys.executable], one), (PROCESSES, two)):
        subprocess.run([*start, *command, "--out", str(out)], check=True, capture_output=True)
    rounds = json.loads((two / "manifest.json").read_text())["verification"]["rounds"]
    assert len(rounds) > 1
    assert scores(two) == scores(one)
    for name in OUTPUTS:
        assert (two / name).read_bytes() == (one / name).read_bytes()


def child_of_rank_one(parent):
    """The process whose environment says that it is rank 1."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    told = {pid: Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in children}
    [found] = [int(pid) for pid, variables in told.items() if b"RANK=1" in variables]
    return found


def test_a_fault_in_one_process_ends_all_with_its_words(select, data, tmp_path):
    bad = [part if part != data else str(tmp_path / "none.jsonl") for part in select]
    done = subprocess.run(
        [*PROCESSES, *bad, "--out", str(tmp_path / "x")],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode != 0
    assert "error: no such file" in done.stderr


@pytest.mark.slow
def test_a_killed_process_costs_no_checkpoint(data, family, tmp_path):
    """Rank 0 is the first to notice: torchrun, which would stop it, is held back."""
    out = tmp_path / "tuned"
    tune = [
        "finetune", data, "--model", family[0], "--prompt-column", "mr", "--response-column", "ref",
        "--epochs", "50", "--checkpoint-seconds", "0", "--out", str(out),
    ]  # fmt: skip
    process = subprocess.Popen(
        [*PROCESSES, *STAFF, *tune], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    while process.poll() is None and not list(tmp_path.glob(".tuned.partial/checkpoint-*")):
        time.sleep(0.05)
    rank_one = child_of_rank_one(process.pid)
    process.send_signal(signal.SIGSTOP)
    try:
        os.kill(rank_one, signal.SIGKILL)
        said = next(line for line in process.stderr if line.startswith("error: "))
    finally:
        process.send_signal(signal.SIGCONT)
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert "another process of this run has ended: run the same command again" in said
    assert list(tmp_path.glob(".tuned.partial/checkpoint-*"))
    assert (tmp_path / ".tuned.tokens" / "tokens" / "tokens.arrow").is_file()


def test_other_commands_say_that_they_work_alone(data, family, tmp_path, monkeypatch, capsys):
    from staff.cli.main import main

    monkeypatch.setenv("WORLD_SIZE", "2")
    asked = (
        ["evaluate", data, "--model", family[0]],
        ["check-model", family[0], "--data", data],
        ["demo", "--out", str(tmp_path / "demo")],
    )
    for command in asked:
        assert main(command) == 2
        said = f"staff {command[0]} works in one process: start it without torchrun"
        assert said in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(
    ("exit_code", "kind"), [(1, StaffError), (3, DataError), (4, ModelError), (5, RunError)]
)
def test_what_failed_elsewhere_ends_with_the_same_exit_code(exit_code, kind):
    class Lead(Team):
        def _say(self, words, *, by):
            return words if by == 0 else {"fault": "no room", "exit_code": exit_code, "amount": 0}

    with pytest.raises(kind, match=r"^rank 1: no room$") as raised:
        Lead(0, 2)._do({}, lambda order: 1)
    assert raised.value.exit_code == exit_code


def test_what_reached_only_some_is_not_followed_by_more():
    """They may be in the middle of it, and would take the next words for its end."""
    said = []

    class Lead(Team):
        def _say(self, words, *, by):
            said.append(words)
            raise ProcessGoneError

    team = Lead(0, 3)
    with pytest.raises(ProcessGoneError) as gone:
        team.lead({"act": "score"}, lambda order: 1)
    team.dismiss(gone.value)
    assert said == [{"act": "score"}]


def test_a_model_goes_by_a_name_that_stays_the_same(tmp_path, monkeypatch):
    """Of a Hub model others would come to a later commit; of a folder, from another one to none."""
    monkeypatch.setattr("staff.models.folder.revision_of", lambda model, trust: "c0ffee")
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    names = {"model": str(tmp_path / "model"), "org/x": "org/x@c0ffee", "org/x@v1": "org/x@c0ffee"}
    assert {name: elsewhere.everywhere(name, trust=NO_TRUST) for name in names} == names


def test_processes_agree_on_a_step_beyond_a_float(monkeypatch):
    """float32 has no odd numbers above 2**24, which the sum over many processes soon is."""
    import torch

    from staff.training.share import Share

    def add(tensor):
        others = tensor.clone()
        for _ in range(2):
            tensor += others

    assert Share(0, 3, add).agrees(2**24 - 1)
    assert not Share(0, 3, lambda told: told.add_(torch.tensor([5.0, 1.0]))).agrees(6)


@pytest.mark.slow  # half a minute; the test above has two processes that tune, too
def test_two_processes_tune_a_model_that_they_hold_between_them(e2e_file, family, tmp_path):
    """FSDP2: as one process tunes it whole, but for the order of sums. One row is left over."""
    from staff.cli.main import main

    tune = [
        "finetune", str(e2e_file(19)), "--model", family[0], "--prompt-column", "mr",
        "--response-column", "ref", "--epochs", "1", "--batch-size", "6", "--learning-rate", "0.01",
        "--dtype", "float32",
    ]  # fmt: skip
    sharded = ["--fsdp", "--micro-batch-size", "2", "--activation-checkpointing"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*tune, "--quiet", "--out", str(one)]) == 0
    done = subprocess.run(
        [*PROCESSES, *STAFF, *tune, *sharded, "--out", str(two)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("adapter") == 1  # one of them tells
    lost = [np.array([x["loss"] for x in lines(out / "loss.jsonl")]) for out in (one, two)]
    assert len(lost[0]) == 4  # six rows a step
    np.testing.assert_allclose(lost[1], lost[0], atol=2e-4)
    weights = [load_file(out / "adapter_model.safetensors") for out in (one, two)]
    for name, tensor in weights[0].items():
        np.testing.assert_allclose(weights[1][name], tensor, atol=2e-3)
        assert np.abs(tensor).max() > 1e-2


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


SHARES = """
import os, sys, time
from datetime import timedelta
import torch
from torch.distributed import distributed_c10d
from staff.models.load import load_model
from staff.team import current, gathered

distributed_c10d.default_pg_timeout = timedelta(seconds=2)  # half an hour, of which not to wait

def check(_):
    from staff.training.sharding import load_sharded

    time.sleep(4 * current().rank)  # a machine that reads the model slowly
    whole = load_model(sys.argv[1], dtype="float32", device="cpu")
    held = load_sharded(sys.argv[1], dtype="float32", device="cpu")
    ids = torch.arange(3, 40)[None] + current().rank  # each its own rows
    mine = sum(p.to_local().numel() for p in held.parameters())
    same = torch.equal(held(input_ids=ids).logits, whole(input_ids=ids).logits)
    again = sum(p.to_local().numel() for p in held.model.layers.parameters())
    blocks = sum(p.numel() for p in whole.model.layers.parameters())
    told = f"{mine / sum(p.numel() for p in whole.parameters())} {again / blocks} {same}\\n"
    os.write(1, told.encode())  # in one: the other process writes to the same pipe
    return 0

with gathered(lambda team: team.follow(check)) as leads:
    if leads:
        current().lead({"act": "check"}, check)
"""


@pytest.mark.slow  # twenty seconds
def test_each_process_holds_its_share_of_the_weights(family, tmp_path):
    """Before the model is run, and of its blocks afterwards; the logits are those of the whole.

    One process comes later than PyTorch would wait.
    """
    (tmp_path / "shares.py").write_text(SHARES)
    done = subprocess.run(
        [*PROCESSES, str(tmp_path / "shares.py"), family[0]],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = [line.split() for line in done.stdout.splitlines()]
    assert len(told) == 2
    for before, after, same in told:
        assert float(before) == pytest.approx(0.5, abs=0.01)
        assert float(after) == pytest.approx(0.5, abs=0.01)
        assert same == "True"


FAULT = """
import os, sys
import torch
from staff.errors import StaffError
from staff.team import current, gathered

def work(order):
    if current().rank == order["fails"]:
        raise StaffError("out of memory here alone")
    current().share().add(torch.zeros(1000))
    return 0

for fails in (1, 0):
    try:
        with gathered(lambda team: team.follow(work)) as leads:
            if leads:
                current().lead({"act": "fine-tune", "together": True, "fails": fails}, work)
    except StaffError as error:
        print(error, file=open(sys.argv[1] + os.environ["RANK"], "a"))
"""


def test_a_process_that_fails_alone_does_not_let_the_others_wait_for_it(tmp_path):
    """Number 1, and then number 0, which leads."""
    (tmp_path / "fault.py").write_text(FAULT)
    subprocess.run(
        [*PROCESSES, str(tmp_path / "fault.py"), str(tmp_path / "said")],
        capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    alone, gone = "out of memory here alone", "another process of this run has ended"
    for rank, expected in enumerate([(gone, alone), (alone, gone)]):
        said = (tmp_path / f"said{rank}").read_text().splitlines()
        for line, words in zip(said, expected, strict=True):
            assert line.startswith(words)


def prepared(data, model, folder):
    """Settings of a scoring, and the rows it reads."""
    config = ScoreConfig(
        data=data, model=model, prompt_column="mr", response_column="ref", out=str(folder)
    )
    tokenisers = tokenisers_of([model], max_length=None)
    read = reading.read(config, open_source(data), tokenisers, folder=folder, progress=None)
    return config, read.stores[0]


@pytest.mark.parametrize("act", ["score", "fine-tune"])
def test_another_model_on_another_machine_is_refused(act, data, family, tmp_path, monkeypatch):
    """What rank 0 orders, in a process that says it is on another machine."""
    config, store = prepared(data, family[0], tmp_path)
    facts, out = model_facts(model=family[0])["model"], tmp_path / "scores"
    order = {
        **orders.order(
            act, config, store, out,
            model=family[0], model_hash=facts["hash"], quantize="none",
        ), "host": "another",
        "positions": [1, 2, 3], "earlier": [], "more": False, "made_from": "",
        "what": settled(config, store, out=out, model=family[0], facts=facts, name="score"),
    }  # fmt: skip
    assert order["config"]["dtype"] in ("float32", "bfloat16")  # "auto" may be another one there
    monkeypatch.setitem(LIBRARIES, "nf4", "nothing-such")
    (tmp_path / "copy").write_bytes(store.path.read_bytes() + b"x")
    for error, match, other in (
        (ModelError, "small is not the same on .* as where the run was start", {"model_hash": "x"}),
        (ModelError, "has torch .*, and the run was started with 1.0", {"versions": {"torch": "1.0"}}),
        (ModelError, "adapter /none does not exist here", {"adapter": "/none"}),
        (ConfigError, "nf4 needs nothing-such", {"quantize": "nf4"}),
        (RunError, "does not exist on .*: the run folder must be on a", {"tokens": "/none"}),
        (RunError, "is not the same file on .* as where", {"tokens": str(tmp_path / "copy")}),
    ):  # fmt: skip
        with pytest.raises(error, match=match):
            obey(Team(1, 2), order | other, kept={})
    assert not (tmp_path / "scores").exists()
    if act == "score":
        assert obey(Team(0, 1), order, kept={}) == 3


def test_shards_that_others_leave_on_disks_of_their_own_are_not_scored_again(
    data, family, tmp_path, monkeypatch
):
    """By the leader alone, for hours: it is told of. Of the others nothing is here."""
    config, store = prepared(data, family[0], tmp_path)
    team = SimpleNamespace(rank=0, size=2, lead=lambda order, work: work(order))
    monkeypatch.setattr("staff.stages.scoring.current", lambda: team)
    config, facts = config.model_copy(update={"shard_rows": 40}), model_facts(model=family[0])
    what = {"model": family[0], "facts": facts["model"], "name": "score"}
    with pytest.raises(RunError, match="lacks 1 of the shards that the processes have just scored"):
        score(config, store, out=tmp_path / "scores", record=StageRecord("score"), **what)
    assert [path.name for path in (tmp_path / "scores").iterdir()] == ["part-00000.parquet"]


def test_a_model_that_more_rounds_are_scored_on_is_loaded_once(data, family, tmp_path, monkeypatch):
    config, store = prepared(data, family[0], tmp_path)
    facts, out = model_facts(model=family[0])["model"], tmp_path / "scores"
    place = {"model": family[0], "model_hash": facts["hash"], "quantize": "none"}
    what = settled(config, store, out=out, model=family[0], facts=facts, name="verify")
    loads, kept, load = [], {}, LazyScorer._load
    monkeypatch.setattr(LazyScorer, "_load", lambda made: loads.append(made) or load(made))

    def ask(rows, earlier, *, more):
        order = orders.order("score", config, store, out, **place)
        order |= {"positions": rows, "earlier": earlier, "more": more, "what": what}
        return obey(Team(0, 1), order, kept=kept)

    assert ask([1, 2], [], more=True) == 2
    assert ask([5], [[1, 2]], more=True) == 1
    assert ask([7, 9], [[1, 2], [5]], more=False) == 2
    assert len(loads) == 1
    assert kept == {}


def test_verified_rows_come_in_smaller_shards(data, family, tmp_path, monkeypatch):
    """Or all but one process had nothing to do. They are the same ones with other batches."""
    monkeypatch.setattr("staff.scores.run.FEW_TOKENS", 512)
    config, store = prepared(data, family[0], tmp_path)
    what = {"model": family[0], "facts": model_facts(model=family[0])["model"], "name": "verify"}
    scored = []

    def scorer(made):
        def score(batch):
            scored.extend(batch.rows.tolist())
            return dict.fromkeys(made.columns, batch.rows.double())

        return score

    monkeypatch.setattr(LazyScorer, "_load", scorer)
    for batch_tokens in (8192, 1024):
        again = config.model_copy(update={"batch_tokens": batch_tokens})
        rounds = Rounds(again, store, out=tmp_path / "scores", **what)
        rounds.score(np.arange(70), StageRecord("verify"), more=True)
        rounds.score(np.arange(70, 75), StageRecord("verify"), more=True)
        rounds.finish()
        found = sorted((tmp_path / "scores").glob("part-*.parquet"))
        assert [pq.read_metadata(part).num_rows for part in found] == [64, 6, 5]
    assert sorted(scored) == list(range(75))  # each once


FROM_PYTHON = """
import os, sys
from datasets import Dataset
from staff import select_coreset
from staff.errors import ConfigError, StaffError

columns = {"method": "random", "keep": 0.5, "prompt_column": "mr", "response_column": "ref"}
said = open(sys.argv[2] + os.environ["RANK"], "w")  # two that print at once mix their words
for again in range(2):
    run = select_coreset(sys.argv[1], out=sys.argv[2], **columns)
    print(run.coresets["0.5"].name, len(run.table()["id"]), file=said)
run = select_coreset(scores=run, keep=0.25, out=sys.argv[2] + "again")
print(run.coresets["0.25"].name, len(run.table()["id"]), file=said)
try:
    select_coreset(sys.argv[3], out=sys.argv[2], **columns)
except StaffError as error:
    print(error, file=said)
try:
    select_coreset(Dataset.from_list([{"mr": "a", "ref": "b"}]), **columns)
except ConfigError as error:
    print(error, file=said)
"""


@pytest.mark.slow
def test_several_processes_that_call_from_python_have_the_same_run(data, tmp_path):
    """Each time; or the same error, and not what an earlier call has left."""
    (tmp_path / "script.py").write_text(FROM_PYTHON)
    other = tmp_path / "other.jsonl"
    other.write_text(Path(data).read_text())
    done = subprocess.run(
        [*PROCESSES, str(tmp_path / "script.py"), data, str(tmp_path / "x"), str(other)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    refused = "data and models in memory belong to one process, and torchrun started several: give"
    for rank in range(2):
        [*told, other_data, error] = (tmp_path / f"x{rank}").read_text().splitlines()
        assert told == ["coreset-0.5.jsonl 79"] * 2 + ["coreset-0.25.jsonl 79"]
        assert "was made with data = " in other_data
        assert error.startswith(refused)


def test_variables_that_no_torchrun_has_set(data, family, tmp_path, monkeypatch, capsys):
    from staff.cli.main import main

    score = ["score", data, "--model", family[0], "--out", str(tmp_path / "x")]
    columns = ["--prompt-column", "mr", "--response-column", "ref"]
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*score, *columns]) == 2
    said = capsys.readouterr().err
    assert "WORLD_SIZE=2 says that this is one of several processes" in said
    assert "start staff with torchrun, or unset WORLD_SIZE" in said
    assert not (tmp_path / "x").exists()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # a torchrun has, and they do not connect
    assert main([*score, *columns]) == 2
    assert "between machines set GLOO_SOCKET_IFNAME to the" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "")
    assert main([*score, *columns, "--print-config"]) == 0


def test_one_process_has_nobody_to_share_a_model_with(data, family, tmp_path, capsys):
    from staff.cli.main import main

    out = tmp_path / "x"
    for command in (
        ["finetune", data, "--model", family[0]],
        ["select", data, "--small", family[0], "--target", family[1], "--keep", "0.2"],
    ):
        columns = ["--prompt-column", "mr", "--response-column", "ref"]
        assert main([*command, *columns, "--fsdp", "--out", str(out)]) == 2
        said = capsys.readouterr().err
        assert f"start it with torchrun --nproc-per-node N -m staff {command[0]}" in said
        assert not out.exists()
