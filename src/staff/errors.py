"""Errors a user can act on.

Library code raises these; only `staff.cli` turns them into text and exit codes.
A message says what is wrong, where, and what to do, in one or two plain lines.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class StaffError(Exception):
    """Something the user can mend. The message is the whole explanation."""

    exit_code = 1


class ConfigError(StaffError):
    """A setting, flag or combination of them is invalid."""

    exit_code = 2


class DataError(StaffError):
    """A data file cannot be used as it is."""

    exit_code = 3


class ModelError(StaffError):
    """A model, tokenizer or adapter cannot be used as it is."""

    exit_code = 4


class RunError(StaffError):
    """A run folder does not fit what is asked of it."""

    exit_code = 5


class BadRow(Exception):  # noqa: N818 - a verdict on one row, not a failure of the program
    """One row cannot be used; the text is the reason, e.g. ``response is empty``."""


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> str:
    """Explain an unknown name by its nearest valid one, or by all of them.

    >>> unknown_name("format", "alpacca", ["alpaca", "text"])
    "unknown format 'alpacca'; did you mean 'alpaca'? Valid: alpaca, text"
    """
    names = sorted(valid)
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {kind} {name!r}; {hint}Valid: {', '.join(names)}"
