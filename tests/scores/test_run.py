import json
from contextlib import contextmanager

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from staff.data.batches import collate
from staff.data.store import TokenStore
from staff.errors import ModelError, RunError, StaffError
from staff.progress import SilentProgress
from staff.scores.effort import Scorer
from staff.scores.oracle import oracle_effort
from staff.scores.run import PartScorer, forget_others, plan_parts, score_rows
from staff.scores.shards import read_features, read_scores
from staff.training.evaluate import item_losses
from staff.training.generate import generate_greedily
from staff.types import IGNORE, TokenisedExample

FACTS = {"scorer": "last-value", "model_hash": "m", "data_hash": "d", "seed": 0}


@pytest.fixture
def store(tmp_path):
    """Fifty rows of 4-20 tokens; input rows are 10, 11, …: two bad ones went before each ten."""
    generator = np.random.default_rng(0)
    examples = []
    for i in range(50):
        ids = generator.integers(3, 101, int(generator.integers(4, 21)))
        labels = np.where(np.arange(len(ids)) < len(ids) // 2, IGNORE, ids)
        examples.append(TokenisedExample(f"id-{i}", ids, labels))
    path = tmp_path / "tokens.arrow"
    with TokenStore.write(path) as writer:
        writer.append([10 + i for i in range(50)], examples)
    return TokenStore.open(path)


class Counting:
    """A scorer that adds up tokens, remembers what it saw and may run out of memory."""

    columns = ("effort",)

    def __init__(self, most=10**9, error=torch.OutOfMemoryError):
        self.seen, self.most, self.error = [], most, error

    def __call__(self, batch):
        if batch.input_ids.numel() > self.most:
            raise self.error("DefaultCPUAllocator: can't allocate memory: you tried")
        self.seen += batch.rows.tolist()
        total = (batch.input_ids * batch.attention_mask).sum(dim=1)
        return {"effort": total.numpy().astype(np.float64)}


def truth(store):
    return np.array([float(e.input_ids.sum()) for e in store.get(range(len(store)))])


def run(scorer, store, out, positions=None, **changes):
    options = {"batch_tokens": 64, "shard_rows": 16, "fingerprint": FACTS}
    return score_rows(scorer, store, positions, out=out, **{**options, **changes})


def test_every_row_once_in_order(store, tmp_path):
    scorer = Counting()
    done = run(scorer, store, tmp_path / "s")
    np.testing.assert_array_equal(done.table.columns["effort"], truth(store))
    assert sorted(scorer.seen) == list(range(50))
    assert done.table.known.all()
    assert done.table.ids == store.ids
    assert (done.rows, done.reused) == (50, 0)
    assert len(list((tmp_path / "s").iterdir())) == 4  # parts of 16, nothing else


def test_only_the_asked_for_rows_reach_the_model(store, tmp_path):
    scorer = Counting()
    done = run(scorer, store, tmp_path / "s", positions=[40, 3, 17])
    assert sorted(scorer.seen) == [3, 17, 40]
    assert np.flatnonzero(done.table.known).tolist() == [3, 17, 40]
    assert np.isnan(done.table.columns["effort"]).sum() == 47
    assert done.table.columns["effort"][17] == truth(store)[17]


def test_a_finished_part_is_reused_and_a_missing_one_done(store, tmp_path):
    first = run(Counting(), store, tmp_path / "s")
    (tmp_path / "s" / "part-00001.parquet").unlink()
    (tmp_path / "s" / "part-00003.parquet").write_bytes(b"PAR1 half a file")
    scorer = Counting()
    again = run(scorer, store, tmp_path / "s")
    assert sorted(scorer.seen) == [*range(16, 32), 48, 49]
    assert (again.rows, again.reused) == (18, 32)
    np.testing.assert_array_equal(first.table.columns["effort"], again.table.columns["effort"])


@pytest.mark.parametrize("key", ["model_hash", "data_hash", "scorer", "seed"])
def test_parts_of_another_fingerprint_are_not_reused(store, tmp_path, key):
    run(Counting(), store, tmp_path / "s")
    scorer = Counting()
    run(scorer, store, tmp_path / "s", fingerprint={**FACTS, key: "other"})
    assert len(scorer.seen) == 50


def test_parts_of_other_rows_are_replaced(store, tmp_path):
    run(Counting(), store, tmp_path / "s")
    scorer = Counting()
    run(scorer, store, tmp_path / "s", positions=[1, 2])
    assert sorted(scorer.seen) == [1, 2]
    assert read_scores(tmp_path / "s").ids == ("id-1", "id-2")


def test_an_interrupted_run_leaves_whole_parts_only(store, tmp_path):
    class Interrupted(Counting):
        def __call__(self, batch):
            if max(batch.rows.tolist()) >= 16:
                raise KeyboardInterrupt
            return super().__call__(batch)

    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(), store, tmp_path / "s")
    assert [p.name for p in (tmp_path / "s").iterdir()] == ["part-00000.parquet"]
    assert run(Counting(), store, tmp_path / "s").reused == 16


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_out_of_memory_halves_the_batch_and_goes_on(store, tmp_path, error):
    notes = []

    class Stage:
        def advance(self, amount=1):
            notes.append(amount)

        def note(self, text):
            notes.append(text)

    class Progress:
        def stage(self, name, *, total=None, unit="rows", exact=True):
            from contextlib import nullcontext

            return nullcontext(Stage())

    scorer = Counting(most=40, error=error)
    done = run(scorer, store, tmp_path / "s", batch_tokens=400, progress=Progress())
    np.testing.assert_array_equal(done.table.columns["effort"], truth(store))
    assert sorted(scorer.seen) == list(range(50))  # no row twice, none lost
    said = [n for n in notes if isinstance(n, str)]
    assert 1 <= len(said) <= 4  # remembered: not once a batch
    assert "out of memory" in said[0]
    assert sum(n for n in notes if isinstance(n, int)) == 50


def test_a_cache_that_may_not_be_written_to_is_told_of_once(store, tmp_path):
    said = []

    class Closed:
        def fetch_shard(self, key, out):
            return False

        def keep_shard(self, key, shard):
            return False

    class Told(SilentProgress):
        @contextmanager
        def stage(self, name, **settings):
            with super().stage(name, **settings) as stage:
                stage.note = said.append
                yield stage

    done = run(Counting(), store, tmp_path / "s", cache=Closed(), progress=Told())
    np.testing.assert_array_equal(done.table.columns["effort"], truth(store))
    assert said == ["no permission to write to the cache: it lacks 4 shards"]


def test_one_row_too_large_is_named(store, tmp_path):
    with pytest.raises(StaffError, match=r"out of memory on row \d+ \(id id-\d+, \d+ tokens\)"):
        run(Counting(most=5), store, tmp_path / "s")
    assert list((tmp_path / "s").glob("*")) == []


def test_other_errors_pass_through(store, tmp_path):
    class Broken(Counting):
        def __call__(self, batch):
            raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        run(Broken(), store, tmp_path / "s")


class Overflowing(Counting):
    """Infinite for some rows."""

    columns = ("effort", "loss")

    def __init__(self, *rows):
        super().__init__()
        self.rows = rows

    def __call__(self, batch):
        scores = super().__call__(batch) | {"loss": np.ones(len(batch.rows))}
        scores["effort"][np.isin(batch.rows.numpy(), self.rows)] = np.inf
        return scores


def test_one_score_that_is_no_number_is_left_out_whole(store, tmp_path):
    for _ in range(2):  # the second time from the parts
        columns = run(Overflowing(7), store, tmp_path / "s").table.columns
        for values in columns.values():
            assert np.flatnonzero(np.isnan(values)).tolist() == [7]


def test_too_many_scores_that_are_no_numbers_stop_the_run(store, tmp_path):
    """One of a hundred rows, and one always: of 50, two are too many."""
    with pytest.raises(ModelError) as caught:
        run(Overflowing(7, 9), store, tmp_path / "s")
    told = str(caught.value)
    assert "the scores of 2 of 50 rows are not finite: row 17 (id id-7, " in told
    assert "Likely causes: an overflow (try --dtype float32)" in told
    with pytest.raises(ModelError, match="1 of 1 rows are not finite"):
        run(Overflowing(7), store, tmp_path / "one", positions=[7])


def test_what_is_written_can_be_read(store, tmp_path):
    done = run(Counting(), store, tmp_path / "s")
    read = read_scores(tmp_path / "s")
    assert read.ids == done.table.ids
    np.testing.assert_array_equal(read.columns["effort"], done.table.columns["effort"])
    part = pq.read_table(tmp_path / "s" / "part-00003.parquet")
    assert part["row"].to_pylist() == [58, 59]
    facts = json.loads(part.schema.metadata[b"staff.fingerprint"])
    assert facts["model_hash"] == "m"


def test_reading_nothing_or_a_mixture_is_refused(store, tmp_path):
    with pytest.raises(RunError, match="no scores in"):
        read_scores(tmp_path)
    run(Counting(), store, tmp_path / "a")
    run(Counting(), store, tmp_path / "b", fingerprint={"seed": 1})
    (tmp_path / "b" / "part-00001.parquet").replace(tmp_path / "a" / "part-00001.parquet")
    with pytest.raises(RunError, match="come from different runs"):
        read_scores(tmp_path / "a")


def test_the_real_scorer_with_features(store, tmp_path, tiny):
    scorer = Scorer(tiny("llama"), features=True)
    done = run(scorer, store, tmp_path / "s")
    assert set(done.table.columns) == {"effort", "loss", "entropy", "el2n", "response_length"}
    np.testing.assert_array_equal(done.table.columns["response_length"], store.response_lengths)
    features = read_features(tmp_path / "s")
    assert features.shape == (50, 32)
    assert features.dtype == np.float32
    again = run(scorer, store, tmp_path / "s")
    assert again.reused == 50
    for name, values in done.table.columns.items():
        np.testing.assert_array_equal(values, again.table.columns[name])


def test_the_same_run_twice_is_the_same_bytes(store, tmp_path, tiny):
    for name in ("a", "b"):
        run(Scorer(tiny("llama")), store, tmp_path / name)
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_parts_scored_elsewhere_come_in_any_order(store, tmp_path):
    asked = []

    def elsewhere(parts, stage):
        asked.append(sorted(parts))
        scorer = PartScorer(Counting(), store, batch_tokens=64, rows=50)
        for number in sorted(parts, reverse=True):
            yield number, scorer.score(parts[number], stage)

    run(Counting(), store, tmp_path / "here")
    here = Counting()
    done = run(here, store, tmp_path / "far", elsewhere=elsewhere)
    (tmp_path / "far" / "part-00001.parquet").unlink()
    again = run(here, store, tmp_path / "far", elsewhere=elsewhere)
    assert (done.rows, again.rows, here.seen) == (50, 16, [])
    assert asked == [[0, 1, 2, 3], [1]]
    np.testing.assert_array_equal(again.table.columns["effort"], truth(store))
    for path in sorted((tmp_path / "here").iterdir()):
        assert path.read_bytes() == (tmp_path / "far" / path.name).read_bytes()


def test_rounds_follow_each_other_in_parts_of_their_own(store, tmp_path):
    rounds, out = [[3, 1, 40], [2, 5, 4, 7], [6]], tmp_path / "s"
    scorer = Counting()
    for number, rows in enumerate(rounds):
        done = run(scorer, store, out, rows, earlier=rounds[:number], more=True, shard_rows=2)
        assert (done.rows, done.reused) == (len(rows), sum(map(len, rounds[:number])))
        known = np.flatnonzero(done.table.known).tolist()
        assert known == sorted(sum(rounds[: number + 1], []))  # noqa: RUF017 - a few numbers
        assert np.array_equal(done.table.columns["effort"][known], truth(store)[known])
    assert sorted(scorer.seen) == [1, 2, 3, 4, 5, 6, 7, 40]  # each of them once
    found = {p.name: pq.read_table(p)["position"].to_pylist() for p in out.iterdir()}
    assert found == {
        "part-00000.parquet": [1, 3], "part-00001.parquet": [40], "part-00002.parquet": [2, 4],
        "part-00003.parquet": [5, 7], "part-00004.parquet": [6],
    }  # fmt: skip


def test_parts_of_rounds_to_come_stay_until_they_are_known_not_to(store, tmp_path):
    out, first, second = tmp_path / "s", [1, 2], [3, 4]
    run(Counting(), store, out, first, more=True)
    run(Counting(), store, out, second, earlier=[first], more=True)
    inode = (out / "part-00001.parquet").stat().st_ino
    again = Counting()  # a restart: the first round does not know of the second
    run(again, store, out, first, more=True)
    assert (out / "part-00001.parquet").stat().st_ino == inode
    run(again, store, out, second, earlier=[first], more=True)
    assert again.seen == []
    forget_others(out, plan_parts([first], 16))
    assert [p.name for p in out.iterdir()] == ["part-00000.parquet"]


def test_one_row_without_a_score_is_allowed_however_few_a_process_has(store, tmp_path):
    """Of 50 rows one may be unknown; that it is the only one of a share says nothing."""

    def score(batch):
        return {"effort": np.where(batch.rows.numpy() == 49, np.nan, 1.0)}

    for rank in range(2):
        done = run(score, store, tmp_path / "s", shard_rows=49, share=(rank, 2))
        assert done.rows == (49, 1)[rank]
    whole = run(score, store, tmp_path / "s", shard_rows=49)
    assert whole.reused == 50
    assert np.isnan(whole.table.columns["effort"]).sum() == 1


def test_rows_beyond_the_original_context_change_no_other_rows_scores(store, tmp_path, tiny):
    """A row of more than 12 tokens has the long frequencies (longrope), and those in its batch."""
    longrope = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [1.0, 4.0, 9.0, 16.0],
    }
    context = {"original_max_position_embeddings": 12, "max_position_embeddings": 64}
    model = tiny("phi3", rope_parameters=longrope, **context)
    scorer, examples = Scorer(model), store.get(range(len(store)))
    found = run(scorer, store, tmp_path / "s", batch_tokens=400).table.columns
    truth = [oracle_effort(model, row) for row in examples]
    np.testing.assert_allclose(found["effort"], truth, rtol=1e-4)
    mixed = scorer(collate(examples))["effort"]
    short = store.lengths <= 12
    assert not np.allclose(mixed[short], found["effort"][short], rtol=0.01)
    losses = item_losses(model=model, tokens=store, batch_tokens=400)
    np.testing.assert_allclose(losses, found["loss"], rtol=1e-5)
    prompts = [row.input_ids for row in examples]
    settings = {"model": model, "max_new_tokens": 3, "eos_ids": []}
    answers = generate_greedily(prompts=prompts, batch_tokens=10_000, **settings)
    alone = [generate_greedily(prompts=[p], batch_tokens=10_000, **settings)[0] for p in prompts]
    within = [n for n, prompt in enumerate(prompts) if len(prompt) + 3 <= 12]
    assert within
    assert [answers[n] for n in within] == [alone[n] for n in within]
