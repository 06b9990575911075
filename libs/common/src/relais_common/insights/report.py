"""Builds reports: the figures of a period, the previous one, and parts of it. Pure; frozen types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from relais_common.insights.batches import BatchFigures, EndedBatches
from relais_common.insights.figures import Figures, figures_of
from relais_common.insights.objectives import Objectives
from relais_common.insights.periods import Period
from relais_common.insights.rollups import HOUR, Group, Rollup
from relais_common.insights.sketch import RELATIVE_ERROR

MAX_ROWS = 1000
MAX_KEYS = 100
PEAK_HOURS = 3
DAY = timedelta(days=1)


class Axis(StrEnum):
    """The axis of a breakdown."""

    MODEL = "model"
    KEY = "key"
    OPERATION = "operation"
    PRIORITY = "priority"
    HOUR = "hour"
    DAY = "day"

    @property
    def is_time(self) -> bool:
        """Return whether the parts are hours or days."""
        return self in (Axis.HOUR, Axis.DAY)


NAMES: dict[Axis, Callable[[Group], str]] = {
    Axis.MODEL: lambda group: group.model,
    Axis.KEY: lambda group: group.key_id,
    Axis.OPERATION: lambda group: group.operation,
    Axis.PRIORITY: lambda group: group.priority,
    Axis.HOUR: lambda group: group.hour.strftime("%Y-%m-%dT%H:00Z"),
    Axis.DAY: lambda group: group.hour.strftime("%Y-%m-%d"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a breakdown: a model, key, hour, ...; `share` is that of all requests of the period."""

    name: str
    share: float
    figures: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyShare:
    """One key's share of the period."""

    key_id: str
    requests: int
    requests_share: float
    output_tokens: int
    output_tokens_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakHour:
    """One of the busiest hours."""

    hour: datetime
    requests: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowRequest:
    """One of the slowest completed requests, with its phases."""

    channel_id: str
    model: str
    key_id: str
    operation: str
    priority: str
    finished_at: datetime
    takes: int
    output_tokens: int
    e2e_s: float
    ttft_s: float | None
    queue_s: float
    prefill_s: float
    decode_s: float
    stalled_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectivesView:
    """The objectives of the goodput, in seconds; None means no such objective."""

    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The KPIs of a period of whole hours.

    Attributes:
        since, until: the period; its end is exclusive.
        rolled_up_to: traces recorded until then are included; None before the first rollup.
        objectives: as evaluated, on steps of the ladder.
        relative_error: maximum error of quantiles.
        total, previous: figures of the period, and of the previous one of the same length.
        by: axis of the rows; hours and days in order, others by number of requests.
        rows_left_out: number of omitted rows.
        keys: the keys with the most requests.
        slowest: requests by end-to-end time.
        batches: those that ended in the period, the largest first; batches_left_out: number of omitted ones.
    """

    since: datetime
    until: datetime
    rolled_up_to: datetime | None
    objectives: ObjectivesView
    relative_error: float
    total: Figures
    previous: Figures
    by: Axis
    rows: tuple[Row, ...]
    rows_left_out: int
    keys: tuple[KeyShare, ...]
    peak_hours: tuple[PeakHour, ...]
    slowest: tuple[SlowRequest, ...]
    batches: tuple[BatchFigures, ...]
    batches_left_out: int


class Fold:
    """Sums of a period's rollups, in total and along axes."""

    def __init__(self, axes: Iterable[Axis] = ()) -> None:
        self.total = Rollup()
        self.parts: dict[Axis, dict[str, Rollup]] = {axis: {} for axis in axes}
        self.requests_of_hours: Counter[datetime] = Counter()
        self.tokens_of_hours: Counter[datetime] = Counter()
        self.requests_of_keys: Counter[str] = Counter()
        self.tokens_of_keys: Counter[str] = Counter()

    def add(self, group: Group, rollup: Rollup) -> None:
        """Add one rollup."""
        self.total.merge(rollup)
        for axis, parts in self.parts.items():
            parts.setdefault(NAMES[axis](group), Rollup()).merge(rollup)
        requests, tokens = rollup.requests, rollup.sums["output_tokens"]
        self.requests_of_hours[group.hour] += requests
        self.tokens_of_hours[group.hour] += tokens
        self.requests_of_keys[group.key_id] += requests
        self.tokens_of_keys[group.key_id] += tokens


def build_report(
    fold: Fold,
    previous: Fold,
    *,
    period: Period,
    by: Axis,
    objectives: Objectives,
    rolled_up_to: datetime | None,
    ended: EndedBatches,
) -> Report:
    """Build a report from a fold, whose axes must include `by`."""
    rows = rows_of(fold, by, period, objectives)
    return Report(
        since=period.since,
        until=period.until,
        rolled_up_to=rolled_up_to,
        objectives=ObjectivesView(
            ttft_s=objectives.ttft_s, tpot_s=objectives.tpot_s, e2e_s=objectives.e2e_s
        ),
        relative_error=RELATIVE_ERROR,
        total=figures_of(fold.total, seconds=period.seconds, objectives=objectives),
        previous=figures_of(previous.total, seconds=period.previous.seconds, objectives=objectives),
        by=by,
        rows=tuple(rows[:MAX_ROWS]),
        rows_left_out=max(0, len(rows) - MAX_ROWS),
        keys=_keys(fold),
        peak_hours=_peaks(fold),
        slowest=tuple(SlowRequest(**{"ttft_s": None, **one}) for one in fold.total.slowest),
        batches=ended.batches,
        batches_left_out=ended.left_out,
    )


def rows_of(fold: Fold, axis: Axis, period: Period, objectives: Objectives) -> list[Row]:
    """Return the rows along an axis; hours and days in order, others by number of requests."""
    whole = fold.total.requests
    rows = [
        Row(
            name=name,
            share=part.requests / whole if whole else 0.0,
            figures=figures_of(part, seconds=_seconds(axis, name, period), objectives=objectives),
        )
        for name, part in sorted(fold.parts[axis].items())
    ]
    return rows if axis.is_time else sorted(rows, key=lambda row: -row.figures.requests)


def _seconds(axis: Axis, name: str, period: Period) -> float:
    """Return the seconds for rates: the hour, or the part of a day that is in the period."""
    if axis is Axis.HOUR:
        return HOUR.total_seconds()
    if axis is Axis.DAY:
        day = datetime.fromisoformat(name).replace(tzinfo=UTC)
        return Period(max(day, period.since), min(day + DAY, period.until)).seconds
    return period.seconds


def _keys(fold: Fold) -> tuple[KeyShare, ...]:
    requests, tokens = fold.requests_of_keys.total(), fold.tokens_of_keys.total()
    most = sorted(fold.requests_of_keys.items(), key=lambda one: (-one[1], one[0]))
    return tuple(
        KeyShare(
            key_id=key_id,
            requests=count,
            requests_share=count / requests,
            output_tokens=fold.tokens_of_keys[key_id],
            output_tokens_share=fold.tokens_of_keys[key_id] / tokens if tokens else 0.0,
        )
        for key_id, count in most[:MAX_KEYS]
    )


def _peaks(fold: Fold) -> tuple[PeakHour, ...]:
    most = sorted(fold.requests_of_hours.items(), key=lambda one: (-one[1], one[0]))
    return tuple(
        PeakHour(hour=hour, requests=count, output_tokens=fold.tokens_of_hours[hour])
        for hour, count in most[:PEAK_HOURS]
    )
