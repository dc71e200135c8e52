"""What is planned for a process, or for one moment, is what it will be given."""

import numpy as np
import pytest

from staff.data.batches import collate
from staff.planning.shares import (
    largest_share,
    micro_work,
    scorers,
    scoring_share,
    shard_rows_of,
    shards,
    shares,
)
from staff.planning.work import scoring_work, tuning_work
from staff.runs.plan_config import PlanConfig
from staff.scores.run import few_rows_shard, score_rows
from staff.training.parts import micro_batches
from staff.training.share import Share
from staff.types import IGNORE

RNG = np.random.default_rng(0)
ROWS = [(int(length), int(RNG.integers(1, length))) for length in RNG.integers(4, 40, size=50)]
SETTINGS = {"data": "d", "small": "s", "target": "t", "keep": 0.1}


@pytest.fixture
def tokens(store):
    return store(ROWS)


@pytest.mark.parametrize("processes", [1, 3, 8])
def test_a_process_has_the_rows_that_it_will_take(tokens, processes):
    whole = tuning_work(tokens, batch_size=4, epochs=2, seed=5)
    dealt = shares(whole, tokens, processes)
    assert len(dealt) == min(processes, 4)
    for rank, work in enumerate(dealt):
        share = Share(rank, processes, lambda tensor: None)
        taken = [share.of(rows.tolist()) for rows in whole.places]
        assert [rows.tolist() for rows in work.places] == [rows for rows in taken if rows]
        # Rank 0 has most to do, but where the longest row of all was put in front.
        assert work.padded.sum() <= dealt[0].padded.sum()


@pytest.mark.parametrize("size", [1, 3, 100])
def test_the_parts_of_a_step_are_those_that_are_computed(tokens, size):
    whole = tuning_work(tokens, batch_size=8, epochs=1, seed=0)
    planned = micro_work(whole, tokens, size)
    found = []
    for rows in whole.places:
        for part in micro_batches(rows.tolist(), size=size, most=len(rows)):
            batch = collate(tokens.get(part))
            found.append((*batch.input_ids.shape, int((batch.labels != IGNORE).sum())))
    assert list(zip(planned.rows, planned.length, planned.responses, strict=True)) == found


def test_shards_are_those_that_a_process_scores(tokens, tmp_path):
    work = scoring_work(tokens, batch_tokens=100, shard_rows=8)
    number = shards(work, shard_rows=8)
    for rank in range(3):
        seen = []

        def scorer(batch, seen=seen):
            seen.append(batch.rows.tolist())
            return {"loss": np.zeros(len(batch.rows))}

        score_rows(
            scorer, tokens, batch_tokens=100, shard_rows=8, share=(rank, 3),
            out=tmp_path / str(rank), fingerprint={},
        )  # fmt: skip
        own = np.flatnonzero(number % 3 == rank)
        assert [work.places[batch].tolist() for batch in own] == seen
    some = scoring_work(tokens, np.arange(1, 50, 3), batch_tokens=50, shard_rows=8)
    assert np.bincount(shards(some, shard_rows=8), weights=some.rows).tolist() == [8, 8, 1]


def test_who_has_most_to_do():
    amounts = np.array([4.0, 1, 1, 2])
    assert largest_share(amounts, 1, queue=False) == 1
    assert largest_share(amounts, 2, queue=False) == 5 / 8  # 4 + 1 and 1 + 2
    assert largest_share(amounts, 2, queue=True) == 4 / 8  # 4, and 1 + 1 + 2 meanwhile
    for queue in (False, True):
        assert largest_share(amounts, 9, queue=queue) == 4 / 8  # a shard is not divided

    assert largest_share(np.ones(5), 2, queue=True) == 3 / 5


def test_who_scores_and_in_which_order(tokens):
    ray = {**SETTINGS, "executor": "ray"}
    several = PlanConfig(**SETTINGS, processes=2)
    assert scorers(several) == 2
    assert scorers(PlanConfig(**ray, workers=2, probe=True)) == 1  # a probe is one process
    assert [scorers(PlanConfig(**ray, workers=workers)) for workers in (None, 2)] == [1, 2]
    # Shards that cost 4, 1, 1, 2 and then nothing: as above.
    work = scoring_work(tokens, batch_tokens=100, shard_rows=8)
    operations = np.zeros(len(work.places))
    operations[np.unique(shards(work, shard_rows=8), return_index=True)[1][:4]] = [4, 1, 1, 2]
    for config, share in ((several, 5 / 8), (PlanConfig(**ray, workers=2), 4 / 8)):
        assert scoring_share(config, work, operations, shard_rows=8) == share


def test_a_pass_is_shared_by_shards_and_verification_by_smaller_ones(tokens):
    config = PlanConfig(**SETTINGS, processes=2, batch_tokens=100)
    small, large = (shard_rows_of(config, kind, tokens) for kind in ("verify", "score small"))
    assert small == few_rows_shard(tokens.lengths, shard_rows=2048) < large == config.shard_rows
    works = {rows: scoring_work(tokens, batch_tokens=100, shard_rows=rows) for rows in (8, large)}
    shared = {
        rows: scoring_share(config, work, work.padded, shard_rows=rows)
        for rows, work in works.items()
    }
    assert shared[large] == 1
    assert 0.5 <= shared[8] < 0.8


@pytest.mark.parametrize(("lengths", "most", "rows"), [
    ([30, 50], 2048, 204),  # 8,192 / 40
    ([500, 500], 2048, 64),  # at least
    ([10, 30], 8, 8),  # as the user says
])  # fmt: skip
def test_a_shard_of_verified_rows_is_small(lengths, most, rows):
    assert few_rows_shard(np.array(lengths), shard_rows=most) == rows
