"""staff: choose the part of a fine-tuning set that is worth training on.

>>> from staff.selectors import select_staff  # own scores: NumPy only
>>> from staff import select_coreset          # the whole job, as `staff select`
>>> from staff import compare_coresets        # is it better than random? as `staff compare`
"""

from typing import TYPE_CHECKING, Any

from staff.errors import ConfigError, DataError, ModelError, RunError, StaffError

if TYPE_CHECKING:
    from staff.api import Comparison, Run, compare_coresets, select_coreset

__version__ = "0.1.0"
__all__ = [
    "Comparison",
    "ConfigError",
    "DataError",
    "ModelError",
    "Run",
    "RunError",
    "StaffError",
    "__version__",
    "compare_coresets",
    "select_coreset",
]


def __getattr__(name: str) -> Any:
    """Import the pipeline when it is used: `staff --help` and the selectors need no torch."""
    if name in ("Comparison", "Run", "compare_coresets", "select_coreset"):
        from staff import api

        return getattr(api, name)
    raise AttributeError(f"module 'staff' has no attribute {name!r}")
