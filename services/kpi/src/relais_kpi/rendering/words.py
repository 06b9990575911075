"""Formats numbers for people."""

from __future__ import annotations

from datetime import datetime, timedelta

NONE = "–"
_THIN = "\N{NARROW NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"


def count(number: float) -> str:
    """Format a count: `1,234`; above a million with three digits: `1.23M`."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.2g}"


def duration(seconds: float | None) -> str:
    """Format a duration with three digits: `420 ms`, `4.21 s`; from two minutes on `3 min 20 s`, `2 h 05 min`."""
    if seconds is None:
        return NONE
    if seconds < 5e-7:
        return f"0{_THIN}s"
    if seconds >= 7200:
        return f"{int(seconds // 3600)}{_THIN}h {int(seconds % 3600 // 60):02}{_THIN}min"
    if seconds >= 120:
        return f"{int(seconds // 60)}{_THIN}min {int(seconds % 60):02}{_THIN}s"
    if seconds >= 0.9995:
        return f"{_digits(seconds)}{_THIN}s"
    return f"{_digits(seconds * 1000)}{_THIN}ms"


def brief(seconds: float | None) -> str:
    """Format a duration for narrow columns, with three digits and a unit: `420 ms`, `125 s`, `20.8 min`, `3.50 h`."""
    if seconds is not None and seconds >= 999.5:
        unit, size = ("h", 3600) if seconds >= 3600 else ("min", 60)
        return f"{_digits(seconds / size)}{_THIN}{unit}"
    if seconds is not None and seconds >= 99.95:
        return f"{seconds:.0f}{_THIN}s"
    return duration(seconds)


def tick(seconds: float) -> str:
    """Format a round duration for an axis: `50 ms`, `2 s`, `5 min`."""
    for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= size * (1 if unit == "s" else 10):
            return f"{seconds / size:.3g}{_THIN}{unit}"
    return f"{seconds * 1000:.3g}{_THIN}ms" if seconds else "0"


def percent(part: float) -> str:
    """Format a round share for an axis."""
    return f"{part * 100:.3g}{_THIN}%"


def share(part: float | None) -> str:
    """Format a share: `98.2 %`; near the ends `99.97 %` or `0.04 %`, because 100 % means all and 0 % means none."""
    if part is None:
        return NONE
    percent = part * 100
    if 99 <= percent < 100:
        return f"{min(percent, 99.99):.2f}{_THIN}%"
    if 0 < percent < 0.995:
        return f"{max(percent, 0.01):.2f}{_THIN}%"
    return f"{percent:.0f}{_THIN}%" if percent in (0, 100) else f"{percent:.1f}{_THIN}%"


def change(now: float | None, before: float | None) -> str:
    """Format a relative change: `+6.8 %`."""
    if now is None or before is None or not before:
        return NONE
    return _signed((now / before - 1) * 100, "%")


def points(now: float | None, before: float | None) -> str:
    """Format the difference of two shares in percentage points: `+0.3 pt`."""
    if now is None or before is None:
        return NONE
    return _signed((now - before) * 100, "pt")


def moment(at: datetime) -> str:
    """Format a point in time, in UTC."""
    return at.strftime("%Y-%m-%d %H:%M")


def length(of: timedelta) -> str:
    """Format the length of a period: `24 hours`, `7 days`."""
    hours = round(of.total_seconds() / 3600)
    if hours % 24 == 0 and hours > 24:
        return f"{hours // 24} days"
    return "1 hour" if hours == 1 else f"{hours} hours"


def _digits(number: float) -> str:
    if number >= 99.95:
        return f"{number:.0f}"
    return f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"


def _signed(number: float, unit: str) -> str:
    digits = f"{abs(number):.0f}" if abs(number) >= 99.95 else f"{abs(number):.1f}"
    sign = "±" if float(digits) == 0 else "+" if number > 0 else _MINUS
    return f"{sign}{digits}{_THIN}{unit}"
