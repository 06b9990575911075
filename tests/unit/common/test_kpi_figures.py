"""Figures of a report against what is counted from the same traces, one by one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from relais_common.insights.objectives import Objectives
from relais_common.insights.report import Axis, Fold, build_report
from relais_common.insights.rollups import SLOWEST
from relais_common.insights.sketch import RELATIVE_ERROR
from relais_common.jobs.job import Operation, Status
from relais_common.jobs.traces import trace_document
from relais_kpi.simulation.traffic import simulate
from relais_testing.kpis import DAY, NO_BATCHES, OBJECTIVES, PERIOD, fold_of, report_of
from relais_testing.traces import HOUR_0, make_document

Document = dict[str, Any]


@pytest.fixture(scope="module")
def traces() -> list[Document]:
    """Two days of traffic, the period and the one before it."""
    made = simulate(traces=4000, days=2, seed=3, until=PERIOD.until)
    return [trace_document(one, recorded_at=PERIOD.until) for one in made]


@pytest.fixture(scope="module")
def ended(traces: list[Document]) -> list[Document]:
    """Those of the period itself."""
    return [one for one in traces if PERIOD.since <= one["finished_at"] < PERIOD.until]


def exact(values: Sequence[float], share: float) -> float:
    return sorted(values)[max(1, math.ceil(share * len(values))) - 1]


def test_counts_are_those_of_the_traces(traces: list[Document], ended: list[Document]) -> None:
    total = report_of(traces).total

    by_status = Counter(one["status"] for one in ended)
    assert total.requests == len(ended) > 1000
    assert (
        total.completed,
        total.failed + total.mistaken,
        total.cancelled,
        total.expired,
    ) == tuple(by_status[one] for one in ("completed", "failed", "cancelled", "expired"))
    mistaken = [one for one in ended if one.get("error_status", 500) < 500]
    assert total.mistaken == len(mistaken) > 0
    assert {one.cause: one.requests for one in total.mistakes} == Counter(
        one["error_type"] for one in mistaken
    )
    judged = len(ended) - by_status["cancelled"] - len(mistaken)
    assert total.success_rate == by_status["completed"] / judged
    causes = Counter(one.get("error_type", one["status"]) for one in ended if one not in mistaken)
    for status in ("completed", "cancelled"):
        del causes[status]
    assert {one.cause: one.requests for one in total.causes} == causes
    assert total.abandoned == sum(one.get("cancel_reason") == "disconnect" for one in ended)
    assert 0 < total.abandoned < total.cancelled
    assert total.retried == sum(one["takes"] > 1 for one in ended)
    for name in ("input_tokens", "output_tokens", "cached_tokens", "wasted_tokens"):
        assert getattr(total, name) == sum(one[name] for one in ended)
    assert total.output_tokens_per_s == total.output_tokens / 86_400


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("ttft", lambda one: one["status"] == "completed" and "ttft_s" in one),
        ("tpot", lambda one: one["status"] == "completed" and "tpot_s" in one),
        ("e2e", lambda one: one["status"] == "completed"),
        ("queue", lambda one: True),
    ],
)
def test_percentiles_are_within_the_stated_error_of_exact_ones(
    traces: list[Document], ended: list[Document], name: str, counts: Callable[[Document], bool]
) -> None:
    latency = getattr(report_of(traces).total, name)

    values = [one[f"{name}_s"] for one in ended if counts(one)]
    assert latency.count == len(values)
    for share, found in ((0.5, latency.p50_s), (0.9, latency.p90_s), (0.99, latency.p99_s)):
        assert found == pytest.approx(exact(values, share), rel=RELATIVE_ERROR + 1e-9, abs=1e-6)
    assert latency.max_s == max(values)
    assert latency.mean_s == pytest.approx(sum(values) / len(values), abs=1e-6)


@pytest.mark.parametrize(
    "objectives",
    [
        OBJECTIVES,
        Objectives(ttft_s=0.25),
        Objectives(tpot_s=0.02, e2e_s=5.0),
        Objectives(e2e_s=0.1),
    ],
)
def test_goodput_is_exact(
    traces: list[Document], ended: list[Document], objectives: Objectives
) -> None:
    goodput = report_of(traces, objectives=objectives).total.goodput

    def within(duration_s: float | None, bound_s: float | None) -> bool:
        return duration_s is None or bound_s is None or duration_s <= bound_s

    judged = [
        one
        for one in ended
        if one["status"] != "cancelled"
        and one.get("error_status", 500) >= 500
        and (objectives.e2e_s is not None or one["operation"] != "embeddings")
    ]
    met = [
        one
        for one in judged
        if one["status"] == "completed"
        and within(one.get("ttft_s"), objectives.ttft_s)
        and within(one.get("tpot_s"), objectives.tpot_s)
        and within(one["e2e_s"], objectives.e2e_s)
    ]
    assert goodput is not None
    assert (goodput.met, goodput.judged) == (len(met), len(judged))
    assert goodput.missed is not None
    for name in ("ttft", "tpot", "e2e"):
        bound_s = getattr(objectives, f"{name}_s")
        late = sum(
            one["status"] == "completed" and not within(one.get(f"{name}_s"), bound_s)
            for one in judged
        )
        share = getattr(goodput.missed, name)
        assert share == (None if bound_s is None else pytest.approx(late / len(judged)))
    lost = sum(one["status"] != "completed" for one in judged)
    assert goodput.missed.not_completed == pytest.approx(lost / len(judged))


def test_mistakes_of_clients_do_not_lower_success() -> None:
    documents = [
        make_document(1),
        make_document(2, status=Status.FAILED, error_type="invalid_value", error_status=400),
    ]

    total = report_of(documents).total

    assert (total.success_rate, total.failed, total.mistaken) == (1.0, 0, 1)
    assert (total.causes, total.mistakes[0].cause) == ((), "invalid_value")
    assert total.goodput is not None
    assert total.goodput.share == 0.0 or total.goodput.judged == 1


def test_failures_of_earlier_versions_without_a_status_count_as_the_service_s() -> None:
    document = make_document(1, status=Status.FAILED, error_type="invalid_value")

    assert "error_status" not in document
    assert report_of([document]).total.failed == 1


@pytest.mark.parametrize("axis", Axis)
def test_parts_sum_to_the_whole(traces: list[Document], axis: Axis) -> None:
    report = report_of(traces, by=axis)

    assert sum(row.figures.requests for row in report.rows) == report.total.requests
    assert sum(row.share for row in report.rows) == pytest.approx(1)
    names = [row.name for row in report.rows]
    assert names == sorted(names) or not axis.is_time


def test_slowest_requests_and_peak_hours_are_exactly_those(
    traces: list[Document], ended: list[Document]
) -> None:
    report = report_of(traces)

    completed = [one for one in ended if one["status"] == "completed"]
    slowest = sorted(completed, key=lambda one: -one["e2e_s"])[:SLOWEST]
    assert [one.channel_id for one in report.slowest] == [one["_id"] for one in slowest]
    hours = Counter(one["finished_at"].replace(minute=0, second=0, microsecond=0) for one in ended)
    assert [one.requests for one in report.peak_hours] == [n for _, n in hours.most_common(3)]


def test_the_time_before_is_the_period_as_long_just_before() -> None:
    documents = [make_document(1), make_document(2, finished_at=HOUR_0 - DAY)]
    documents += [make_document(3, finished_at=HOUR_0 - 2 * DAY)]

    report = report_of(documents)

    assert (report.total.requests, report.previous.requests) == (1, 1)


def test_phases_sum_to_the_mean_end_to_end_time(traces: list[Document]) -> None:
    total = report_of(traces).total

    assert total.phases is not None
    assert total.e2e is not None
    phases = total.phases
    whole = phases.queue_s + phases.prefill_s + phases.decode_s + phases.stalled_s
    assert whole == pytest.approx(total.e2e.mean_s, abs=1e-5)


def test_first_token_objectives_do_not_judge_embeddings() -> None:
    documents = [
        make_document(1, operation=Operation.EMBEDDINGS, output_tokens=0),
        make_document(2, queue_s=9.0),
    ]

    goodput = report_of(documents, objectives=Objectives(ttft_s=1.0)).total.goodput

    assert goodput is not None
    assert (goodput.met, goodput.judged, goodput.share) == (0, 1, 0.0)


def test_rates_of_a_day_that_is_cut_are_over_what_the_period_has_of_it() -> None:
    period = type(PERIOD)(PERIOD.since + timedelta(hours=6), PERIOD.until + timedelta(hours=6))
    fold = fold_of([make_document(1)], period)

    report = build_report(
        fold,
        Fold(),
        period=period,
        by=Axis.DAY,
        objectives=OBJECTIVES,
        rolled_up_to=None,
        ended=NO_BATCHES,
    )

    [row] = report.rows
    assert row.figures.output_tokens_per_s == 11 / (18 * 3600)


def test_a_period_with_nothing_has_no_rates_of_nothing() -> None:
    report = report_of([])

    assert report.total.requests == 0
    assert report.total.success_rate is None
    assert report.total.ttft is None
    assert [*report.rows, *report.keys, *report.slowest, *report.peak_hours] == []


def test_statuses_are_the_four_that_end_a_request() -> None:
    assert {one.value for one in Status if one.is_terminal} == {
        *("completed", "failed", "cancelled", "expired")
    }
