"""Renders the page's sections, from the tiles to the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC
from functools import partial
from html import escape

from relais_common.insights.batches import BatchFigures
from relais_common.insights.figures import Figures, Latency
from relais_common.insights.report import Axis, Report, Row, SlowRequest
from relais_common.insights.sketch import Sketch
from relais_kpi.rendering import charts, words
from relais_kpi.rendering.charts import Mark, Scale, Series
from relais_kpi.rendering.contents import Page
from relais_kpi.rendering.elements import Column, chart, figure, objective, table, tile
from relais_kpi.rendering.measured import met, p50, p99
from relais_kpi.rendering.summary import missed

MOST_ROWS = 20
COUNTS = Scale(words.count, words.count)
DURATIONS = Scale(words.tick, words.brief)
SHARES = Scale(words.percent, words.share)


def tiles(report: Report) -> str:
    """Return the key figures of the period as tiles."""
    now, before = report.total, report.previous
    shown = [
        tile(
            "Requests",
            words.count(now.requests),
            _versus(words.change, now.requests, before.requests),
            0,
        ),
        *_share_tile("Succeeded", now.success_rate, before.success_rate),
    ]
    if now.goodput is not None and before.goodput is not None:
        shown += _share_tile("Met all objectives", now.goodput.share, before.goodput.share)
    for name, one, other in (
        ("First token", now.ttft, before.ttft),
        ("Whole answer", now.e2e, before.e2e),
    ):
        if one is not None:
            was = p99(other)
            note = f"99 % within {words.duration(one.p99_s)}"
            if was:
                note += f", {words.change(one.p99_s, was)}"
            direction = -_direction(one.p99_s, was)
            shown.append(tile(f"{name}, half within", words.duration(one.p50_s), note, direction))
    rate, earlier = now.output_tokens_per_s, before.output_tokens_per_s
    note = _versus(words.change, rate, earlier)
    shown.append(tile("Output tokens per second", words.count(rate), note, 0))
    return f'<dl class="tiles">{"".join(shown)}</dl>'


def _share_tile(name: str, now: float | None, before: float | None) -> list[str]:
    """Return no tile if no request is judged by the objective."""
    if now is None:
        return []
    note = _versus(words.points, now, before)
    return [tile(name, words.share(now), note, _direction(now, before))]


def _versus(
    differ: Callable[[float | None, float | None], str], now: float, before: float | None
) -> str:
    difference = differ(now, before)
    if difference == words.NONE:
        return "nothing before to compare with"
    return f"{difference} against the time before"


def _direction(now: float | None, before: float | None) -> int:
    """Return 1 for more, -1 for less, 0 for nearly the same."""
    if now is None or before is None or abs(now - before) <= 0.002 * abs(before):
        return 0
    return 1 if now > before else -1


def over_time(page: Page) -> str:
    """Return the charts of figures over time."""
    axis, rows, bound = page.time_axis, page.times, _bound(page.report.objectives.ttft_s)
    labels, ticks = [_time_label(axis, row) for row in rows], _ticks(axis, rows)
    unit = "hour" if axis is Axis.HOUR else "day"

    def series(name: str, tone: str, value: Callable[[Figures], float | None]) -> Series:
        return Series(name, tone, [value(row.figures) for row in rows])

    def drawn(
        name: str,
        draw: Callable[..., str],
        scale: Scale,
        *several: Series,
        bound: Mark | None = None,
    ) -> str:
        return chart(name, several, draw(name, labels, several, scale, ticks), bound)

    shown = (
        drawn(
            f"Requests per {unit}",
            charts.bars,
            COUNTS,
            series("completed", "blue", lambda one: one.completed),
            series("cancelled or mistaken", "gray", lambda one: one.cancelled + one.mistaken),
            series("failed or expired", "red", lambda one: one.failed + one.expired),
        ),
        drawn(
            "Time to first token",
            partial(charts.lines, bound=bound),
            DURATIONS,
            series("half within", "blue", lambda one: p50(one.ttft)),
            series("99 % within", "amber", lambda one: p99(one.ttft)),
            bound=bound,
        ),
        drawn(
            "Output tokens per second",
            charts.bars,
            COUNTS,
            series("output tokens/s", "violet", lambda one: one.output_tokens_per_s),
        ),
        drawn(
            "Success and goodput",
            partial(charts.lines, top=1.0),
            SHARES,
            series("succeeded", "blue", lambda one: one.success_rate),
            series("met all objectives", "green", lambda one: met(one.goodput)),
        ),
    )
    named: Column[Row] = ("", partial(_time_label, axis))
    numbers = table([named, *_OVER_TIME], rows)
    return (
        f'<section><h2>Over time</h2><div class="charts">{"".join(shown)}</div>'
        f"<details><summary>These numbers, {unit} by {unit}</summary>{numbers}</details></section>"
    )


_OVER_TIME: tuple[Column[Row], ...] = (
    ("Requests", lambda row: words.count(row.figures.requests)),
    ("Completed", lambda row: words.count(row.figures.completed)),
    ("Failed", lambda row: words.count(row.figures.failed)),
    ("Mistaken", lambda row: words.count(row.figures.mistaken)),
    ("Cancelled", lambda row: words.count(row.figures.cancelled)),
    ("Expired", lambda row: words.count(row.figures.expired)),
    ("TTFT p50", lambda row: words.duration(p50(row.figures.ttft))),
    ("TTFT p99", lambda row: words.duration(p99(row.figures.ttft))),
    ("Tokens/s", lambda row: words.count(row.figures.output_tokens_per_s)),
    ("Goodput", lambda row: words.share(met(row.figures.goodput))),
)
_BREAKDOWN: tuple[Column[Row], ...] = (
    ("", lambda row: row.name),
    ("Requests", lambda row: words.count(row.figures.requests)),
    ("Share", lambda row: words.share(row.share)),
    ("Success", lambda row: words.share(row.figures.success_rate)),
    ("Goodput", lambda row: words.share(met(row.figures.goodput))),
    ("TTFT p50", lambda row: words.brief(p50(row.figures.ttft))),
    ("TTFT p99", lambda row: words.brief(p99(row.figures.ttft))),
    ("E2E p50", lambda row: words.brief(p50(row.figures.e2e))),
    ("E2E p99", lambda row: words.brief(p99(row.figures.e2e))),
    ("Queue p99", lambda row: words.brief(p99(row.figures.queue))),
    ("Tokens/s", lambda row: words.count(row.figures.output_tokens_per_s)),
)
_SLOWEST: tuple[Column[SlowRequest], ...] = (
    ("Channel", lambda one: one.channel_id),
    ("Model", lambda one: one.model),
    ("Key", lambda one: one.key_id),
    ("Ended, UTC", lambda one: words.moment(one.finished_at.astimezone(UTC))),
    ("End to end", lambda one: words.brief(one.e2e_s)),
    ("Queue", lambda one: words.brief(one.queue_s)),
    ("Prefill", lambda one: words.brief(one.prefill_s)),
    ("Decode", lambda one: words.brief(one.decode_s)),
    ("Stalled", lambda one: words.brief(one.stalled_s)),
    ("Takes", lambda one: str(one.takes)),
    ("Tokens", lambda one: words.count(one.output_tokens)),
)


_BATCHES: tuple[Column[BatchFigures], ...] = (
    ("Batch", lambda one: one.batch_id),
    ("Model", lambda one: one.model or words.NONE),
    ("Key", lambda one: one.key_id),
    ("Status", lambda one: one.status),
    ("Ended, UTC", lambda one: words.moment(one.ended_at)),
    ("Requests", lambda one: words.count(one.requests)),
    ("Completed", lambda one: words.count(one.completed)),
    ("Failed", lambda one: words.count(one.failed)),
    ("Input tokens", lambda one: words.count(one.input_tokens)),
    ("Output tokens", lambda one: words.count(one.output_tokens)),
    ("Took", lambda one: words.brief(one.duration_s)),
)


def _bound(objective_s: float | None) -> Mark | None:
    return None if objective_s is None else Mark("objective", "bound", objective_s)


def _time_label(axis: Axis, row: Row) -> str:
    return row.name[:16].replace("T", " ") if axis is Axis.HOUR else row.name


def _ticks(axis: Axis, rows: Sequence[Row]) -> list[str]:
    """Return the labels: hours of a day, or days."""
    if axis is Axis.DAY or len(rows) > 72:
        days = [
            row.name[5:10] if axis is Axis.DAY or row.name[11:13] == "00" else "" for row in rows
        ]
        shown = [at for at, label in enumerate(days) if label]
        every = max(1, -(-len(shown) // 8))
        kept = set(shown[::every])
        return [label if at in kept else "" for at, label in enumerate(days)]
    every = 1 if len(rows) <= 8 else 6 if len(rows) <= 30 else 12
    return [row.name[11:16] if int(row.name[11:13]) % every == 0 else "" for row in rows]


def distributions(page: Page) -> str:
    """Return the distributions of durations."""
    total, wanted, all_requests = page.report.total, page.report.objectives, page.all_requests
    drawn = [
        _distribution(name, sketch, latency, _bound(bound_s))
        for name, sketch, latency, bound_s in (
            ("Time to first token", all_requests.ttft, total.ttft, wanted.ttft_s),
            ("Time per output token", all_requests.tpot, total.tpot, wanted.tpot_s),
            ("End to end", all_requests.e2e, total.e2e, wanted.e2e_s),
            ("In the queue", all_requests.queue, total.queue, None),
        )
        if latency is not None
    ]
    return (
        "<section><h2>How long it took</h2>"
        '<p class="soft">Each column is a share of the requests; the scale is logarithmic.</p>'
        f'<div class="charts">{"".join(drawn)}</div></section>'
    )


def _distribution(name: str, sketch: Sketch, latency: Latency, bound: Mark | None) -> str:
    marks = [
        Mark("p50", "ink", latency.p50_s),
        Mark("p90", "ink", latency.p90_s),
        Mark("p99", "amber", latency.p99_s),
    ]
    said = ", ".join(f"{one.name} {words.brief(one.value)}" for one in marks)
    # Names from left to right, so that none is written over another.
    marks = sorted([*marks, bound] if bound else marks, key=lambda one: one.value)
    bins = list(sketch.sorted_bins())
    drawn = charts.distribution(f"{name}: {said}", bins, DURATIONS, marks)
    return figure(name, escape(said) + "".join(objective(bound)), drawn)


def time_spent(page: Page) -> str:
    """Return the charts of where requests spent their time."""
    tones = (("queue", "amber"), ("prefill", "violet"), ("decode", "blue"), ("stalled", "red"))
    rows = [
        (row.name, [Series(phase, tone, [getattr(phases, f"{phase}_s")]) for phase, tone in tones])
        for row in page.models[:MOST_ROWS]
        if (phases := row.figures.phases) is not None
    ]
    causes, mistakes = (
        [(one.cause, [Series("requests", tone, [one.requests])]) for one in several[:MOST_ROWS]]
        for several, tone in (
            (page.report.total.causes, "red"),
            (page.report.total.mistakes, "gray"),
        )
    )
    goodput = page.report.total.goodput
    why = missed(goodput) if goodput is not None else []
    parts = []
    if rows:
        title = "Where the time of a request goes, on average"
        legend = [Series(phase, tone, []) for phase, tone in tones]
        parts.append(chart(title, legend, charts.shares(title, rows, DURATIONS)))
    if why:
        title = "Objectives that were missed"
        shares = [(name, [Series("requests", "amber", [share])]) for name, share in why]
        parts.append(chart(title, [], charts.shares(title, shares, SHARES)))
    if mistakes:
        title = "Mistakes of clients, by the code that they got"
        parts.append(chart(title, [], charts.shares(title, mistakes, COUNTS)))
    if causes:
        title = "Why requests did not succeed"
        parts.append(chart(title, [], charts.shares(title, causes, COUNTS)))
    return f'<section><h2>Where time and requests went</h2><div class="charts">{"".join(parts)}</div></section>'


def tables(page: Page) -> Iterator[str]:
    """Return the tables of parts, causes and slowest requests."""
    yield _breakdown("By model", page.models)
    yield _breakdown("By key", page.keys)
    by = page.report.by
    if by not in (Axis.MODEL, Axis.KEY, page.time_axis):
        # Of hours and days, the last ones.
        rows = page.report.rows[-MOST_ROWS:] if by.is_time else page.report.rows
        yield _breakdown(f"By {by.value}", list(rows))
    slowest = table(_SLOWEST, page.report.slowest, words_until=4)
    yield f"<section><h2>Slowest completed requests</h2>{slowest}</section>"


def batches(report: Report) -> str:
    """Return the table of the period's batches."""
    rest = len(report.batches) + report.batches_left_out - MOST_ROWS
    more = f'<p class="soft">and {rest} smaller ones (--format json)</p>' if rest > 0 else ""
    shown = table(_BATCHES, report.batches[:MOST_ROWS], words_until=5)
    return f"<section><h2>Batches</h2>{shown}{more}</section>"


def _breakdown(title: str, rows: list[Row]) -> str:
    rest = len(rows) - MOST_ROWS
    more = f'<p class="soft">and {rest} more (--format csv has all)</p>' if rest > 0 else ""
    return f"<section><h2>{escape(title)}</h2>{table(_BREAKDOWN, rows[:MOST_ROWS])}{more}</section>"
