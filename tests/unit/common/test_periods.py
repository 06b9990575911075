"""Periods as people write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relais_common.insights.periods import parse_period

NOW = datetime(2026, 11, 28, 14, 25, tzinfo=UTC)


@pytest.mark.parametrize(
    ("since", "until", "wanted"),
    [
        (None, None, ("2026-11-27T14", "2026-11-28T14")),
        ("7d", None, ("2026-11-21T14", "2026-11-28T14")),
        ("2w", "1d", ("2026-11-13T15", "2026-11-27T15")),
        ("2026-11-01", "2026-11-02", ("2026-11-01T00", "2026-11-03T00")),
        ("2026-11-01T05:30", "2026-11-01T07:30:00Z", ("2026-11-01T05", "2026-11-01T08")),
        ("2026-11-01 05:00+02:00", "2026-11-01T07:00", ("2026-11-01T03", "2026-11-01T07")),
    ],
)
def test_periods_are_whole_hours_around_what_is_asked_for(
    since: str | None, until: str | None, wanted: tuple[str, str]
) -> None:
    period = parse_period(since, until, now=NOW)

    assert (f"{period.since:%Y-%m-%dT%H}", f"{period.until:%Y-%m-%dT%H}") == wanted
    assert period.previous.until == period.since
    assert period.previous.seconds == period.seconds


@pytest.mark.parametrize(
    ("since", "until", "named"),
    [
        ("yesterday", None, "since"),
        (None, "2026-02-30", "until"),
        ("2026-11-28T14:00", None, "since"),
        ("99999w", None, "since"),
        (None, "9999-12-31", "until"),
        ("0001-01-01", None, "since"),
        ("5m", None, "since"),
        ("٢d", None, "since"),
        (None, "9999-12-31T23:30", "until"),
        (None, "0001-01-01T00:00+14:00", "until"),
    ],
)
def test_what_is_no_period_is_refused_by_name(
    since: str | None, until: str | None, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        parse_period(since, until, now=NOW)


@given(since=st.none() | st.text(), until=st.none() | st.text())
def test_anything_is_a_period_or_a_value_error(since: str | None, until: str | None) -> None:
    try:
        period = parse_period(since, until, now=NOW)
    except ValueError:
        return
    assert period.until - period.since >= timedelta(hours=1)
