"""A model that is divided among processes; what two of them make of it is in tests/test_team.py."""

import pytest

from staff.errors import ConfigError


def test_a_device_whose_processes_cannot_exchange_weights(tiny):
    from staff.training.sharding import load_sharded

    with pytest.raises(ConfigError, match="--fsdp works on cuda and cpu, not on meta: leave it"):
        load_sharded(str(tiny), device="meta")
