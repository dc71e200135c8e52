import inspect
import subprocess
import sys

import pytest

import staff.selectors
from staff.errors import ConfigError
from staff.selectors import SELECTORS, needs


def test_importing_the_selectors_imports_no_model_library():
    code = (
        "import sys, staff.selectors; "
        "print([m for m in ('torch', 'transformers', 'datasets', 'scipy', 'pandas', 'faiss') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_shows_types_by_their_names():
    functions = [getattr(staff.selectors, name) for name in staff.selectors.__all__]
    for function in filter(inspect.isfunction, functions):
        assert "numpy._typing" not in str(inspect.signature(function)), function.__name__


def test_needs():
    assert needs("staff") == {"scores", "verify"}
    assert needs("random") == set()
    assert needs("d2") == {"scores", "connect"}
    assert needs("k-centre") == needs("moderate") == {"features"}
    assert needs("ifd") == {"scores", "unconditioned"}
    assert all(needs(name) == {"scores"} for name in ("ccs", "grand", "loss"))
    assert list(SELECTORS) == sorted(SELECTORS)
    with pytest.raises(ConfigError, match="unknown selector 'staf'; did you mean 'staff'"):
        needs("staf")
