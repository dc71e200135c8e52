"""A fine-tuning that was stopped goes on from its last checkpoint, to the same bytes."""

import hashlib
import json
import os
import resource
import shutil
import signal
from contextlib import suppress

import pytest
import torch
from transformers.trainer import safe_globals

from staff.errors import DiskFullError, StaffError
from staff.training import checkpoints
from staff.training.finetune import finetune
from staff.training.share import Share

STEPS = 12  # 3 epochs of 16 rows in batches of 4
DAMAGED = [
    "checkpoint-5 is damaged, so fine-tuning does not resume from it",
    f"begins at step 1 of {STEPS}",
]


class Stopped(BaseException):
    """What a test stops a fine-tuning with."""


class Notes:
    """A progress that keeps what is noted and how far it got."""

    def __init__(self):
        self.said, self.done = [], 0

    def stage(self, name, **_):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def note(self, text):
        self.said.append(text)

    def advance(self, amount=1):
        self.done += amount

    skip = advance


@pytest.fixture(scope="module")
def restless(tmp_path_factory, tokenizer):
    """A GPT-2 with dropout: its training draws from the generators at every step."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=96,
        bos_token_id=1, eos_token_id=2, resid_pdrop=0.2, embd_pdrop=0.2, attn_pdrop=0.2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("models") / "gpt2"
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def train(rows, tmp_path):
    """Train into `out`, and stop after a step, or do something, if asked to; (result, notes)."""

    def train(model, *, stop=None, then=None, made_from="a", seconds=0.0, out=None, **settings):
        progress = Notes()

        def stop_after(point):
            if point.step == stop:
                raise Stopped
            if then is not None:
                then(point)

        result = finetune(
            model=str(model), tokens=rows, out=out or tmp_path / "adapter", epochs=3,
            batch_size=4, learning_rate=1e-2, seed=3, made_from=made_from,
            checkpoint_seconds=seconds, on_log=stop_after, progress=progress, **settings,
        )  # fmt: skip
        return result, progress

    return train


@pytest.fixture
def place(tmp_path):
    return tmp_path / ".adapter.partial"


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, restless, rows):
    """What a training leaves that nothing disturbed and that wrote no checkpoint."""
    out = tmp_path_factory.mktemp("whole") / "adapter"
    return finetune(
        model=str(restless), tokens=rows, out=out, epochs=3, batch_size=4,
        learning_rate=1e-2, seed=3,
    )  # fmt: skip


def test_a_checkpoint_is_not_read_to_the_first_gpu(train, restless, whole, monkeypatch):
    """PEFT reads to a GPU if there is one, and to it safetensors' `cuda` is the first."""
    with pytest.raises(Stopped):
        train(restless, stop=5)
    monkeypatch.setattr("peft.peft_model.infer_device", lambda: "cuda")
    result, progress = train(restless)
    assert progress.said == [f"resumes after step 4 of {STEPS}"]
    assert digests(result.adapter) == digests(whole.adapter)


@pytest.mark.parametrize("step", [4, STEPS])
def test_a_stop_waits_for_the_end_of_its_step_and_a_second_one_does_not(
    train, restless, whole, place, step
):
    def ask(times):
        def act(point):
            for _ in range(times * (point.step == step - 1)):  # said when that step is over
                os.kill(os.getpid(), signal.SIGINT)

        return act

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(restless, seconds=60, then=ask(2))
    assert not list(place.glob("checkpoint-*"))
    with pytest.raises(KeyboardInterrupt):
        train(restless, seconds=60, then=ask(1))
    assert [p.name for p in place.glob("checkpoint-*")] == [f"checkpoint-{step}"]
    assert signal.getsignal(signal.SIGINT) is before
    result, progress = train(restless, seconds=60)
    assert f"resumes after step {step} of {STEPS}" in progress.said
    assert digests(result.adapter) == digests(whole.adapter)


def test_a_stop_at_the_step_limit_leaves_no_step_to_do(train, restless, tmp_path):
    """In the middle of an epoch, where the Trainer would go on to its end."""

    def ask(point):
        if point.step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    undisturbed, _ = train(restless, max_steps=2, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(restless, seconds=60, then=ask, max_steps=2)
    result, progress = train(restless, seconds=60, max_steps=2)
    assert progress.said == ["resumes after step 2 of 2"]
    assert progress.done == result.steps == 2
    assert result.tokens == undisturbed.tokens
    assert digests(result.adapter) == digests(undisturbed.adapter)


def test_training_goes_on_after_a_signal_whose_handler_returns(train, restless, place):
    def ask(point):
        if point.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    found = []  # checkpoints, when the handler is called
    before = signal.signal(signal.SIGTERM, lambda *_: found.extend(place.glob("checkpoint-*")))
    try:
        result, _ = train(restless, seconds=60, then=ask, max_steps=6)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [folder.name for folder in found] == ["checkpoint-4"]
    assert result.steps == 6


@pytest.mark.parametrize(
    "stops", [[2], [4, 5], [5], [8], [9, 12], [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]
)
def test_the_bytes_are_those_of_a_training_that_was_not_stopped(
    train, restless, whole, place, tmp_path, stops
):
    for stop in stops:
        with pytest.raises(Stopped):
            train(restless, stop=stop)
        # The step is logged before its checkpoint is written.
        assert [p.name for p in place.glob("checkpoint-*")] == [f"checkpoint-{stop - 1}"]
    result, progress = train(restless)
    assert f"resumes after step {stops[-1] - 1} of {STEPS}" in progress.said
    assert progress.done == STEPS
    assert digests(result.adapter) == digests(whole.adapter)
    assert result.losses == whole.losses
    assert (result.tokens, result.response_tokens) == (whole.tokens, whole.response_tokens)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_every_process_of_several_goes_on_with_its_own_dropout(restless, rows, tmp_path):
    """Each in turn and without the other's gradients: what it has drawn after each step."""

    def states(rank, *, out, stop=None):
        found = {}

        def note(point):
            found[point.step] = torch.get_rng_state().numpy().tobytes()
            if point.step == stop:
                raise Stopped

        with suppress(Stopped, StaffError):  # alone, it counts too few tokens at its end
            finetune(
                model=str(restless), tokens=rows, out=tmp_path / out, epochs=2,
                batch_size=4, seed=3, made_from="a", checkpoint_seconds=0, on_log=note,
                share=Share(rank, 2, lambda tensor: None),
            )  # fmt: skip
        return found

    whole = [states(rank, out=f"whole-{rank}") for rank in (0, 1)]
    assert not set(whole[0].values()) & set(whole[1].values())
    states(0, out="stopped", stop=4)
    # Number 1 finds no checkpoint, on a file system that shows it late, say: nothing is trained.
    with pytest.raises(StaffError, match=r"not all processes find the same checkpoint .* step 0"):
        finetune(
            model=str(restless), tokens=rows, out=tmp_path / "other", made_from="a",
            share=Share(1, 2, lambda told: told.add_(torch.tensor([3.0, 1.0]))),
        )  # fmt: skip
    for rank in (1, 0):  # number 0 removes the checkpoint when it is done
        assert states(rank, out="stopped") == {step: whole[rank][step] for step in (4, 5, 6, 7, 8)}


def test_checkpoints_go_only_once_the_adapter_is_noted(train, restless, whole, place, tmp_path):
    """A process that is killed between the two does no more than the last interval again."""

    def killed(result):
        assert digests(result.adapter) == digests(whole.adapter)
        raise Stopped

    with pytest.raises(Stopped):
        train(restless, on_placed=killed)
    result, progress = train(restless, overwrite=True)
    assert f"resumes after step {STEPS - 1} of {STEPS}" in progress.said
    assert digests(result.adapter) == digests(whole.adapter)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_checkpoints_keep_their_distance_in_time(train, restless, place):
    with pytest.raises(Stopped):
        train(restless, stop=6, seconds=3600)
    assert not list(place.glob("checkpoint-*"))
    _, progress = train(restless)
    told = "an earlier start left no checkpoint to resume from (one is written every 0 s)"
    assert progress.said == [f"{told}: begins at step 1 of {STEPS}"]


def test_without_a_fingerprint_nothing_stays(train, restless, place):
    with pytest.raises(Stopped):
        train(restless, stop=6, made_from=None)
    assert not place.exists()


@pytest.fixture
def stopped(train, restless, place):
    with pytest.raises(Stopped):
        train(restless, stop=6)
    return place / "checkpoint-5"


def test_nothing_in_a_checkpoint_is_a_pickle_of_objects(stopped):
    names = {path.name for path in stopped.iterdir()}
    assert names == {*checkpoints.FILES, checkpoints.STATE} - {"scaler.pt"}
    for path in stopped.glob("*.pt*"):
        with safe_globals():  # NumPy's arrays, for the state of its generator
            torch.load(path, weights_only=True)


def test_a_full_disk_is_told_as_such_and_the_checkpoint_before_it_stays(
    train, restless, stopped, place, whole
):
    """No file may be as large as the optimiser's states; torch.save does not say why it failed."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    most = (stopped / "optimizer.pt").stat().st_size - 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, usual[1]))
    try:
        with pytest.raises(DiskFullError, match=r"full while writing .*/checkpoint-6"):
            train(restless)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert [path.name for path in place.iterdir()] == ["checkpoint-5"]
    result, progress = train(restless)
    assert progress.said == [f"resumes after step 5 of {STEPS}"]
    assert digests(result.adapter) == digests(whole.adapter)


def test_a_smaller_micro_batch_goes_on_where_memory_ran_out(train, restless, place):
    """As its message advises; the first step needs more than there is: nothing to keep."""

    def fill(at):
        def act(point):
            if point.step == at:
                raise MemoryError

        return act

    for at, kept in ((1, []), (6, ["checkpoint-5"])):
        with pytest.raises(StaffError, match="lower --micro-batch-size"):
            train(restless, then=fill(at))
        assert [path.name for path in place.glob("*")] == kept
        assert place.exists() == bool(kept)
    _, progress = train(restless, micro_batch_size=2)
    assert progress.said == [f"resumes after step 5 of {STEPS}"]


@pytest.mark.parametrize("name", ["optimizer.pt", "adapter_model.safetensors", "rng_state.pth"])
def test_a_changed_byte_is_found_before_the_file_is_opened(train, restless, stopped, whole, name):
    content = bytearray((stopped / name).read_bytes())
    content[len(content) // 2] ^= 1
    (stopped / name).write_bytes(content)
    result, progress = train(restless)
    assert progress.said == DAMAGED
    assert digests(result.adapter) == digests(whole.adapter)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"made_from": "a"}'])
def test_a_state_that_cannot_be_read_is_damaged(train, restless, stopped, whole, text):
    (stopped / checkpoints.STATE).write_text(text)
    _, progress = train(restless)
    assert progress.said == DAMAGED


def test_a_missing_file_is_damage(train, restless, stopped):
    (stopped / "scheduler.pt").unlink()
    _, progress = train(restless)
    assert "damaged" in progress.said[0]


def test_another_training_starts_over(train, restless, stopped, place):
    result, progress = train(restless, made_from="b")
    assert "checkpoint-5 was made from other data, models or settings" in progress.said[0]
    assert result.steps == STEPS
    assert not place.exists()


def test_other_versions_start_over(train, restless, stopped):
    state = json.loads((stopped / checkpoints.STATE).read_text())
    state["versions"]["torch"] = "0.0"
    (stopped / checkpoints.STATE).write_text(json.dumps(state))
    _, progress = train(restless)
    assert "checkpoint-5 was made with other versions of torch" in progress.said[0]


def test_of_two_the_later_whole_one_counts(train, restless, stopped, whole):
    later = stopped.with_name("checkpoint-7")
    shutil.copytree(stopped, later)
    (later / "optimizer.pt").unlink()
    result, progress = train(restless)
    assert "checkpoint-7 is damaged" in progress.said[0]
    assert progress.said[1] == f"resumes after step 5 of {STEPS}"
    assert digests(result.adapter) == digests(whole.adapter)


def test_what_a_kill_leaves_of_a_checkpoint_does_no_harm(train, restless, stopped, place, whole):
    half = place / ".checkpoint.partial" / "checkpoint-6"
    half.mkdir(parents=True)
    (half / "optimizer.pt").write_bytes(b"half")
    result, _ = train(restless)
    assert digests(result.adapter) == digests(whole.adapter)
    assert not place.exists()
