"""Steps on batches of our choice."""

import json

import numpy as np

from staff.training.timing import time_steps
from staff.types import TokenisedExample


class Rows:
    """Ten rows of the same few tokens, and a note of those that were asked for."""

    ids = tuple(f"id-{n}" for n in range(10))
    lengths = np.full(10, 6)
    response_lengths = np.full(10, 2)

    def __init__(self):
        self.asked = []

    def get(self, positions):
        self.asked.append([int(position) for position in positions])
        ids = np.arange(5, 11)
        return [TokenisedExample("id", ids, np.where(ids > 8, ids, -100)) for _ in positions]


def test_the_batches_are_trained_on_in_order(family, tmp_path):
    rows, batches = Rows(), [np.array([7, 2]), np.array([0, 9]), np.array([7, 2])]
    seconds = time_steps(
        family[0],
        rows,
        batches,
        batch_size=2,
        learning_rate=1e-3,
        dtype="float32",
        device="cpu",
        adapter=tmp_path / "adapter",
    )
    assert rows.asked == [batch.tolist() for batch in batches]
    assert len(seconds) == 3
    assert min(seconds) > 0
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == 8
