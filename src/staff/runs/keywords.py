"""A message that names flags, for somebody who gave keywords: the same job from Python."""

import re
from typing import Any, Literal, get_args, get_origin

from staff.runs.settings import Settings

FLAG = re.compile(
    r"(?<!\S)--(?P<no>no-)?(?P<name>[a-z][a-z-]*[a-z])(?: (?P<value>\w[\w./-]*\w|\w|'[^']*'))?"
)
# What is to be typed in a shell stays as it is.
COMMAND = re.compile(r"\b(?<!method )(staff|torchrun) ((?!\. )[^,;:\n])*$")


def in_python(text: str, config: type[Settings]) -> str:
    """The text with this job's flags as keywords, and what was said to stand behind them.

    >>> from staff.runs.config import SelectConfig
    >>> in_python("leave them out with --on-bad-row skip, or give --small MODEL", SelectConfig)
    'leave them out with on_bad_row="skip", or give small=MODEL'
    >>> in_python("choose another --out, or add --overwrite", SelectConfig)
    'choose another out, or add overwrite=True'
    """

    def keyword(found: re.Match[str]) -> str:
        name, value = found["name"].replace("-", "_"), found["value"]
        field = config.model_fields.get(name)
        if field is None or COMMAND.search(text, 0, found.start()):
            return found[0]
        if field.annotation is bool:
            return f"{name}={not found['no']}" + (f" {value}" if value else "")
        if value is None:
            return name
        if value in _words(field.annotation):
            return f'{name}="{value}"'
        is_value = value.startswith("'") or value.replace(".", "").isdigit() or value.isupper()
        return f"{name}{'=' if is_value or '/' in value else ' '}{value}"

    return FLAG.sub(keyword, text)


def _words(annotation: Any) -> set[Any]:
    """The words that a setting may be; none of a list's, which flags name one behind another."""
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    if get_origin(annotation) is tuple:
        return set()
    return {word for part in get_args(annotation) for word in _words(part)}
