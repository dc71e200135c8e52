"""The batches that are planned are those that are run."""

import numpy as np

from staff.data.batches import collate
from staff.planning.shares import micro_work, shares
from staff.planning.work import scoring_work, tuning_work, without_prompts
from staff.rng import stream_seed
from staff.scores import alone
from staff.scores.run import score_rows
from staff.training.arguments import training_arguments
from staff.training.callbacks import LossCurve
from staff.training.trainer import ResponseTrainer, padding_of
from staff.types import IGNORE

LENGTHS = np.random.default_rng(0).integers(4, 40, size=50)


def test_steps_are_the_trainers_own(tiny, store, tmp_path):
    tokens = store([(int(length), 2) for length in LENGTHS])
    planned = tuning_work(tokens, batch_size=4, epochs=3, seed=5)
    model = tiny("llama")
    trainer = ResponseTrainer(
        model=model,
        args=training_arguments(
            folder=tmp_path, model=model, epochs=3, max_steps=None, batch_size=4,
            learning_rate=1e-4, warmup=0.1, seed=0, gradient_checkpointing=False,
        ),
        curve=LossCurve(lambda point: None),
        tokens=tokens,
        seed=stream_seed(5, "fine-tune order") % 2**63,
    )  # fmt: skip
    epochs = [trainer.rows[list(trainer._get_train_sampler())] for _ in range(3)]
    assert np.concatenate(planned.places).tolist() == np.concatenate(epochs).tolist()
    assert [len(places) for places in planned.places] == ([4] * 12 + [2]) * 3
    for places, padded, responses in zip(
        planned.places, planned.padded, planned.responses, strict=True
    ):
        assert padded == len(places) * LENGTHS[places].max()
        assert responses == 2 * len(places)


def test_steps_in_half_precision_are_as_wide_as_the_trainers(tiny, store):
    tokens = store([(int(length), 2) for length in LENGTHS])
    padding = padding_of(tiny("llama").bfloat16())
    planned = tuning_work(tokens, batch_size=4, epochs=1, seed=5, multiple=padding["multiple"])
    parts = (planned, *shares(planned, tokens, 3), micro_work(planned, tokens, 2))
    for work in (*parts, planned.take([0, 3])):
        found = [collate(tokens.get(rows), **padding).input_ids.numel() for rows in work.places]
        assert work.padded.tolist() == found


def test_responses_alone_are_as_wide_as_they_are_scored(store):
    rows = [(int(length), int(length) // (2 + n % 3)) for n, length in enumerate(LENGTHS)]
    tokens = store(rows)
    planned = without_prompts(scoring_work(tokens, batch_tokens=100, shard_rows=20), tokens)
    found = []
    for places in planned.places:
        batch = alone.without_prompts(collate(tokens.get(places), rows=places), start=0)
        found.append((batch.input_ids.numel(), int((batch.labels != IGNORE).sum())))
    assert list(zip(planned.padded, planned.responses, strict=True)) == found


def test_scoring_batches_are_those_that_are_scored(store, tmp_path):
    tokens = store([(int(length), 2) for length in LENGTHS])
    seen = []

    def scorer(batch):
        seen.append((batch.rows.tolist(), batch.input_ids.shape[1]))
        return {"loss": np.zeros(len(batch.rows))}

    settings = {"batch_tokens": 100, "shard_rows": 20}
    score_rows(scorer, tokens, out=tmp_path / "out", fingerprint={}, **settings)
    planned = scoring_work(tokens, **settings)
    assert [(p.tolist(), w) for p, w in zip(planned.places, planned.length, strict=True)] == seen
    some = scoring_work(tokens, np.array([7, 3, 9]), **settings)
    assert sorted(np.concatenate(some.places).tolist()) == [3, 7, 9]
    assert planned.take([1]).padded.tolist() == [planned.padded[1]]
