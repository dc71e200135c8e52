"""Text from other sources, made safe to show on a terminal or in a page."""

import re
from collections.abc import Collection
from itertools import islice

# Control characters but for tab and line feed: a terminal obeys them, HTML has no way to write most
# of them. Halves of surrogate pairs, as a path may hold them, have no bytes in UTF-8.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
SHOWN = 60  # characters of a value that a message quotes
LISTED = 50  # names that a message lists


def visible(text: str) -> str:
    """Control characters as the symbols Unicode has for them.

    >>> visible("a\\x00b\\x1b[31m")
    'a␀b␛[31m'
    """
    return CONTROL.sub(lambda match: _symbol(ord(match[0])), text)


def one_line(text: str) -> str:
    """The same with tabs and line breaks as symbols, too: it cannot pass for lines of ours.

    >>> one_line("a\\nerror: b")
    'a␊error: b'
    """
    plain = visible(text).replace("\t", "␉").replace("\n", "␊")
    return plain.replace("\u2028", "␊").replace("\u2029", "␊")


def shortened(text: str) -> str:
    """As much of a text as a message holds: a value of a row can be as long as the row.

    >>> shortened("ab" * 50)[-5:], len(shortened("ab" * 50))
    ('baba…', 60)
    """
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def listed(names: Collection[str]) -> str:
    """Names of a file's columns, as many as a message holds: there can be a hundred thousand.

    >>> listed(["a", "b"]), listed([str(i) for i in range(2000)])[-24:]
    ('a, b', '48, 49, … (2,000 in all)')
    """
    some = ", ".join(one_line(shortened(name)) for name in islice(names, LISTED))
    return some if len(names) <= LISTED else f"{some}, … ({len(names):,} in all)"


def _symbol(code: int) -> str:
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else "�"
