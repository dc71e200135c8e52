"""Numbers and durations for people."""

from typing import Any

from staff.words import count


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(0.04), duration(12.34), duration(59.96), duration(75), duration(7384)
    ('0.0 s', '12.3 s', '1 min 00 s', '1 min 15 s', '2 h 03 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def brief(seconds: float) -> str:
    """Seconds that may be far less than one, or below zero.

    >>> brief(7384), brief(0.4), brief(0.0032), brief(2e-5), brief(-75), brief(0)
    ('2 h 03 min', '400 ms', '3.2 ms', '20 µs', '-1 min 15 s', '0 s')
    """
    if seconds < 0:
        return f"-{brief(-seconds)}"
    if seconds >= 0.9995 or not seconds:
        return duration(seconds) if seconds else "0 s"
    value, unit = (seconds * 1e3, "ms") if seconds >= 0.9995e-3 else (seconds * 1e6, "µs")
    return f"{value:.0f} {unit}" if value >= 9.95 else f"{value:.1f} {unit}"


def significant(value: float) -> str:
    """Three significant digits, whole numbers from 1000 on.

    >>> significant(0.14), significant(0.0), significant(12345.6), significant(123.4)
    ('0.140', '0', '12,346', '123')
    """
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")


def millions(value: int) -> str:
    """Parameters in three digits: 4.2M, 7B.

    >>> millions(999_400_000), millions(999_885_952)
    ('999M', '1B')
    """
    return f"{value / 1e9:.3g}B" if value >= 999.5e6 else f"{value / 1e6:.3g}M"


def operations(value: float) -> str:
    """Floating-point operations: 1.20 TFLOP, 34.0 PFLOP.

    >>> operations(1.2e12), operations(999), operations(-3.4e16)
    ('1.20 TFLOP', '999 FLOP', '-34.0 PFLOP')
    """
    for size, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{significant(value / size)} {unit}FLOP"
    return f"{value:.0f} FLOP"


def memory(value: float) -> str:
    """Bytes: 640 MB, 12.3 GB.

    >>> memory(64e7), memory(12.34e9)
    ('640 MB', '12.3 GB')
    """
    return f"{value / 1e9:,.1f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def plain(value: Any) -> str:
    """Any plain value; two floats are an interval."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return count(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        if len(value) == 2 and all(isinstance(item, float) for item in value):
            return f"[{value[0]:.4g}, {value[1]:.4g}]"
        return ", ".join(plain(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name}={plain(item)}" for name, item in value.items())
    return str(value)
