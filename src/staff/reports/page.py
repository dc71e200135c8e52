"""The frame of every page: one HTML file that needs no network and no server.

Its Content-Security-Policy allows its one style sheet and its one script, by their hashes, and
nothing else: no inline handler, no image, no connection. All data is escaped by Jinja, and
`visible` replaces what cannot be shown.
"""

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from staff.reports.numbers import duration, millions, plain, significant
from staff.visible import visible
from staff.words import count, rows_of

TEMPLATES = Path(__file__).parent / "templates"


def render_page(template: str, **context: Any) -> str:
    """Fill a template that extends page.html; every text in it is escaped."""
    style, script = (
        Markup((TEMPLATES / name).read_text(encoding="utf-8"))
        for name in ("style.css", "script.js")
    )
    policy = (
        f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    page = _environment().get_template(template)
    return page.render(style=style, script=script, policy=policy, **context)


def clipped(text: str, limit: int) -> str:
    """The text, or as much of it as `limit` characters hold and how long it is."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]} […, {count(len(text))} characters]"


def capitalised(text: str) -> str:
    """The text with a capital letter first, the others as they are."""
    return text[:1].upper() + text[1:]


def _source(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    for function in (count, duration, millions, plain, rows_of, significant, clipped, capitalised):
        environment.filters[function.__name__] = function
    return environment


def _shown(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
