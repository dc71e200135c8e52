"""Numbers of things in words, as every message and page writes them."""


def count(value: int) -> str:
    """Thousands apart: 12,345."""
    return f"{value:,}"


def counted(value: int, one: str, several: str | None = None) -> str:
    """So many of something; several: their name, by default with an s.

    >>> counted(1, "usable row"), counted(1200, "usable row"), counted(0, "entry", "entries")
    ('1 usable row', '1,200 usable rows', '0 entries')
    """
    return f"{count(value)} {one if value == 1 else several or one + 's'}"


def rows_of(value: int) -> str:
    """A number of rows in words."""
    return counted(value, "row")
