"""Makes reports of trace documents without a database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from relais_common.insights.batches import EndedBatches
from relais_common.insights.objectives import Objectives
from relais_common.insights.periods import Period
from relais_common.insights.report import Axis, Fold, Report, build_report
from relais_common.insights.rollups import Group, Rollup, roll_up
from relais_testing.traces import HOUR_0

DAY = timedelta(days=1)
PERIOD = Period(HOUR_0.replace(hour=0), HOUR_0.replace(hour=0) + DAY)
NO_BATCHES = EndedBatches()
OBJECTIVES = Objectives(ttft_s=1.0, tpot_s=0.05, e2e_s=10.0)


def fold_of(
    documents: Iterable[Mapping[str, Any]], period: Period = PERIOD, axes: Iterable[Axis] = Axis
) -> Fold:
    """Fold the traces that ended in the period, through stored documents, as a report does."""
    rollups: dict[Group, Rollup] = {}
    roll_up(documents, rollups)
    fold = Fold(axes)
    for group, rollup in rollups.items():
        if period.since <= group.hour < period.until:
            fold.add(group, Rollup.from_document(rollup.to_document(group)))
    return fold


def report_of(
    documents: Iterable[Mapping[str, Any]],
    *,
    period: Period = PERIOD,
    by: Axis = Axis.MODEL,
    objectives: Objectives = OBJECTIVES,
    ended: EndedBatches = NO_BATCHES,
) -> Report:
    """Return the report of these traces."""
    documents = list(documents)
    return build_report(
        fold_of(documents, period),
        fold_of(documents, period.previous),
        period=period,
        by=by,
        objectives=objectives,
        rolled_up_to=period.until,
        ended=ended,
    )
