from types import SimpleNamespace

import numpy as np
import pytest

from staff.data.batches import collate
from staff.errors import ModelError
from staff.scores.alone import ResponseAlone, start_token, without_prompts
from staff.scores.effort import Scorer
from staff.scores.oracle import oracle_signals
from staff.types import IGNORE, TokenisedExample


def example(ids, labels):
    return TokenisedExample("x", np.array(ids), np.array(labels))


def test_prompts_become_a_start_token_by_hand():
    # Two turns: 5 6 [7] 8 [9 10]; a short one: 5 [6].
    one = example([5, 6, 7, 8, 9, 10], [IGNORE, IGNORE, 7, IGNORE, 9, 10])
    other = example([5, 6], [IGNORE, 6])
    for side in ("right", "left"):
        padded = collate([one, other], side=side, rows=[4, 2])
        batch = without_prompts(padded, start=1)
        assert batch.rows.tolist() == [4, 2]
        assert batch.input_ids.tolist() == [[1, 7, 9, 10], [1, 6, 1, 1]]
        assert batch.labels.tolist() == [[IGNORE, 7, 9, 10], [IGNORE, 6, IGNORE, IGNORE]]
        assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_agrees_with_the_oracle_on_the_response_alone(tiny, rows):
    model = tiny("llama")
    truth = []
    for row in rows:
        response = row.input_ids[row.labels != IGNORE]
        alone = example([1, *response], [IGNORE, *response])
        truth.append(oracle_signals(model, alone)["loss"])
    scorer = ResponseAlone(Scorer(model, phi=None, signals=("loss",)), start=1)
    found = scorer(collate(rows))
    assert list(found) == list(scorer.columns) == ["unconditioned_loss"]
    np.testing.assert_allclose(found["unconditioned_loss"], truth, rtol=1e-4)


def test_the_start_is_bos_or_else_eos():
    both, one, none = (
        SimpleNamespace(bos_token_id=b, eos_token_id=e)
        for b, e in ((0, 2), (None, 2), (None, None))
    )
    assert (start_token(both, model="m"), start_token(one, model="m")) == (0, 2)
    with pytest.raises(ModelError, match="the tokenizer of m has no bos or eos token"):
        start_token(none, model="m")
