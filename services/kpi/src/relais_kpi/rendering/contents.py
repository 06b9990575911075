"""Collects what the HTML page shows: the report, and the data of its charts."""

from __future__ import annotations

from dataclasses import dataclass

from relais_common.insights.batches import read_batches
from relais_common.insights.figures import figures_of
from relais_common.insights.mongo import Database
from relais_common.insights.objectives import Objectives
from relais_common.insights.periods import Period
from relais_common.insights.report import DAY, NAMES, Axis, Report, Row, build_report, rows_of
from relais_common.insights.rollups import HOUR, Group, Rollup
from relais_common.insights.store import read_fold, rolled_up_to

MOST_HOURS = 7 * 24
"""In a longer period, charts show days instead of hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The report, and the data of its charts.

    Attributes:
        all_requests: figures of all requests, for the distributions.
        times: all hours or days of the period, in order.
    """

    report: Report
    all_requests: Rollup
    time_axis: Axis
    times: list[Row]
    models: list[Row]
    keys: list[Row]


async def read_page(
    database: Database, period: Period, *, by: Axis, objectives: Objectives
) -> Page:
    """Read everything that the page shows from the rollups."""
    time_axis = Axis.HOUR if period.seconds <= MOST_HOURS * 3600 else Axis.DAY
    fold = await read_fold(database, period, dict.fromkeys((by, time_axis, Axis.MODEL, Axis.KEY)))
    report = build_report(
        fold,
        await read_fold(database, period.previous),
        period=period,
        by=by,
        objectives=objectives,
        rolled_up_to=await rolled_up_to(database),
        ended=await read_batches(database, period),
    )
    return Page(
        report=report,
        all_requests=fold.total,
        time_axis=time_axis,
        times=whole(rows_of(fold, time_axis, period, objectives), time_axis, period, objectives),
        models=rows_of(fold, Axis.MODEL, period, objectives),
        keys=rows_of(fold, Axis.KEY, period, objectives),
    )


def whole(rows: list[Row], axis: Axis, period: Period, objectives: Objectives) -> list[Row]:
    """Add the hours or days in which nothing ended."""
    known = {row.name: row for row in rows}
    nothing = figures_of(Rollup(), seconds=1.0, objectives=objectives)
    step = HOUR if axis is Axis.HOUR else DAY
    names, at = [], period.since
    while at < period.until:
        names.append(NAMES[axis](Group(at, "", "", "", "")))
        at += step
    # A period that begins in the middle of a day ends in one more.
    names += [name for name in known if name not in names]
    return [known.get(name) or Row(name=name, share=0.0, figures=nothing) for name in names]
