"""Periods of whole hours in UTC, and their notation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from relais_common.insights.rollups import HOUR, hour_of

DEFAULT_LENGTH = timedelta(hours=24)
_AGO = re.compile(r"(\d{1,5})([hdw])", re.ASCII)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_MOMENT = re.compile(
    r"\d{4}-\d{2}-\d{2}[T ]\d{2}(:\d{2}(:\d{2}(\.\d{1,6})?)?)?(Z|[+-]\d{2}:\d{2})?", re.ASCII
)
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_FORMS = (
    "a length such as 24h, 7d or 2w, a day such as 2026-11-28, or a time such as 2026-11-28T14:00"
)


@dataclass(frozen=True, slots=True)
class Period:
    """A period from the start of an hour (inclusive) to the start of another (exclusive)."""

    since: datetime
    until: datetime

    @property
    def seconds(self) -> float:
        """Return the length in seconds."""
        return (self.until - self.since).total_seconds()

    @property
    def previous(self) -> Period:
        """Return the period of the same length just before this one."""
        return Period(self.since - (self.until - self.since), self.since)


def parse_period(since: str | None, until: str | None, *, now: datetime) -> Period:
    """Parse a period and extend it to whole hours; the default is the last 24 complete hours.

    `since` may be a length, counted back from `until`. `until` may be a length, counted back from now; a day as `until`
    is included. Times without an offset are in UTC.

    Raises:
        ValueError: says which of the two is invalid, and why.
    """
    end = hour_of(now) if until is None else _ceiling(_read("until", until, now, end_of_day=True))
    start = end - DEFAULT_LENGTH if since is None else hour_of(_read("since", since, end))
    if start >= end:
        raise ValueError("since: it is not before until")
    try:
        period = Period(start, end)
        period.previous  # noqa: B018 # it must exist
    except OverflowError:
        raise ValueError("since: it is too long ago") from None
    return period


def _read(name: str, text: str, reference: datetime, *, end_of_day: bool = False) -> datetime:
    try:
        if ago := _AGO.fullmatch(text):
            return reference - int(ago[1]) * _UNITS[ago[2]]
        if _DAY.fullmatch(text):
            day = datetime.combine(date.fromisoformat(text), time(), UTC)
            return day + timedelta(days=1) if end_of_day else day
        if _MOMENT.fullmatch(text):
            moment = datetime.fromisoformat(text)
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{name}: there is no such time") from None
    raise ValueError(f"{name}: write {_FORMS}")


def _ceiling(moment: datetime) -> datetime:
    start = hour_of(moment)
    try:
        return start if start == moment else start + HOUR
    except OverflowError:
        raise ValueError("until: there is no such time") from None
