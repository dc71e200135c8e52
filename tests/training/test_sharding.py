"""A model that is divided among processes; what two of them make of it is in tests/test_team.py."""

import pytest

from staff.errors import ConfigError, ModelError


def test_a_device_whose_processes_cannot_exchange_weights(tiny):
    from staff.training.sharding import load_sharded

    with pytest.raises(ConfigError, match="--fsdp works on cuda and cpu, not on meta: leave it"):
        load_sharded(str(tiny), device="meta")


def test_a_share_that_does_not_fit_is_told(tiny, monkeypatch):
    import torch

    from staff.training import sharding

    def full(model, place):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(sharding, "shard", full)
    monkeypatch.setattr(sharding.dist, "get_world_size", lambda: 2)
    with pytest.raises(ModelError, match="memory of cpu, sharded over 2 processes: start more"):
        sharding.load_sharded(str(tiny), device="cpu")
