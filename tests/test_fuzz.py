"""Inputs that nobody thought of: whatever they are, nothing but a StaffError comes of them."""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FILE = Path(__file__).parents[1] / "fuzz" / "targets.py"
spec = importlib.util.spec_from_file_location("fuzz_targets", FILE)
targets = importlib.util.module_from_spec(spec)
spec.loader.exec_module(targets)

EXAMPLES = {"records": 300, "configs": 300, "run_folders": 150, "reports": 30}


@pytest.mark.parametrize("name", sorted(targets.TARGETS))
def test_only_what_a_user_can_mend_comes_out(name):
    @settings(
        max_examples=EXAMPLES[name],
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.binary(max_size=300))
    def fuzz(data):
        targets.TARGETS[name](data)

    fuzz()
