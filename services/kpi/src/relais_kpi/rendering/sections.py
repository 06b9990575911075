"""The page's sections, from the tiles to the tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC
from html import escape

from relais_common.insights.figures import Figures, Latency
from relais_common.insights.report import Axis, Report, Row
from relais_kpi.rendering import charts, words
from relais_kpi.rendering.charts import Mark, Scale, Series
from relais_kpi.rendering.contents import Page
from relais_kpi.rendering.elements import chart, table, tile

MOST_ROWS = 20
COUNTS = Scale(words.count, words.count)
DURATIONS = Scale(words.tick, words.brief)
SHARES = Scale(words.percent, words.share)


def tiles(report: Report) -> str:
    now, before = report.total, report.previous
    tiles = [
        tile(
            "Requests",
            words.count(now.requests),
            words.change(now.requests, before.requests),
            0,
            "before",
        ),
        tile(
            "Succeeded",
            words.share(now.success_rate),
            words.points(now.success_rate, before.success_rate),
            _direction(now.success_rate, before.success_rate),
            "before",
        ),
    ]
    if now.goodput is not None and before.goodput is not None:
        tiles.append(
            tile(
                "Met all objectives",
                words.share(now.goodput.share),
                words.points(now.goodput.share, before.goodput.share),
                _direction(now.goodput.share, before.goodput.share),
                "before",
            )
        )
    for name, one, other in (
        ("First token", now.ttft, before.ttft),
        ("Whole answer", now.e2e, before.e2e),
    ):
        if one is not None:
            was = None if other is None else other.p99_s
            tiles.append(
                tile(
                    f"{name}, half within",
                    words.duration(one.p50_s),
                    f"99 % within {words.duration(one.p99_s)}, {words.change(one.p99_s, was)}",
                    -_direction(one.p99_s, was),
                    "",
                )
            )
    tiles.append(
        tile(
            "Output tokens per second",
            words.count(now.output_tokens_per_s),
            words.change(now.output_tokens_per_s, before.output_tokens_per_s),
            0,
            "before",
        )
    )
    return f'<dl class="tiles">{"".join(tiles)}</dl>'


def _direction(now: float | None, before: float | None) -> int:
    """1 for more, -1 for less, 0 for nearly the same."""
    if now is None or before is None or abs(now - before) <= 0.002 * abs(before):
        return 0
    return 1 if now > before else -1


def over_time(page: Page) -> str:
    figures = [row.figures for row in page.times]
    labels = [_time_label(page.time_axis, row) for row in page.times]
    ticks = _ticks(page.time_axis, page.times)
    unit = "hour" if page.time_axis is Axis.HOUR else "day"
    requests = [
        Series("completed", "blue", [one.completed for one in figures]),
        Series("cancelled", "gray", [one.cancelled for one in figures]),
        Series("failed or expired", "red", [one.failed + one.expired for one in figures]),
    ]
    first = [
        Series(
            "half within", "blue", [None if one.ttft is None else one.ttft.p50_s for one in figures]
        ),
        Series(
            "99 % within",
            "amber",
            [None if one.ttft is None else one.ttft.p99_s for one in figures],
        ),
    ]
    tokens = [Series("output tokens/s", "violet", [one.output_tokens_per_s for one in figures])]
    rates = [
        Series("succeeded", "blue", [one.success_rate for one in figures]),
        Series(
            "met all objectives",
            "green",
            [None if one.goodput is None else one.goodput.share for one in figures],
        ),
    ]
    bound = _bound(page.report.objectives.ttft_s)
    drawn = [
        chart(
            f"Requests per {unit}",
            requests,
            lambda title: charts.bars(title, labels, requests, COUNTS, ticks),
        ),
        chart(
            "Time to first token",
            first,
            lambda title: charts.lines(title, labels, first, DURATIONS, ticks, bound=bound),
            bound,
        ),
        chart(
            "Output tokens per second",
            tokens,
            lambda title: charts.bars(title, labels, tokens, COUNTS, ticks),
        ),
        chart(
            "Success and goodput",
            rates,
            lambda title: charts.lines(title, labels, rates, SHARES, ticks, top=1.0),
        ),
    ]
    head = (
        "",
        "Requests",
        "Completed",
        "Failed",
        "Cancelled",
        "Expired",
        "TTFT p50",
        "TTFT p99",
        "Tokens/s",
        "Goodput",
    )
    body = [
        (
            label,
            *map(
                words.count, (one.requests, one.completed, one.failed, one.cancelled, one.expired)
            ),
            words.duration(None if one.ttft is None else one.ttft.p50_s),
            words.duration(None if one.ttft is None else one.ttft.p99_s),
            words.count(one.output_tokens_per_s),
            words.share(None if one.goodput is None else one.goodput.share),
        )
        for label, one in zip(labels, figures, strict=True)
    ]
    return (
        f'<section><h2>Over time</h2><div class="charts">{"".join(drawn)}</div>'
        f"<details><summary>These numbers, {unit} by {unit}</summary>{table(head, body)}</details></section>"
    )


def _bound(objective_s: float | None) -> Mark | None:
    return None if objective_s is None else Mark("objective", "bound", objective_s)


def _time_label(axis: Axis, row: Row) -> str:
    return row.name[:16].replace("T", " ") if axis is Axis.HOUR else row.name


def _ticks(axis: Axis, rows: Sequence[Row]) -> list[str]:
    """Hours of a day, or days."""
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
    total, wanted = page.report.total, page.report.objectives
    drawn = []
    for name, sketch, latency, bound_s, tone in (
        ("Time to first token", page.all_requests.ttft, total.ttft, wanted.ttft_s, "pale"),
        ("Time per output token", page.all_requests.tpot, total.tpot, wanted.tpot_s, "pale"),
        ("End to end", page.all_requests.e2e, total.e2e, wanted.e2e_s, "pale"),
        ("In the queue", page.all_requests.queue, total.queue, None, "pale"),
    ):
        if latency is None:
            continue
        marks = [
            Mark("p50", "ink", latency.p50_s),
            Mark("p90", "ink", latency.p90_s),
            Mark("p99", "amber", latency.p99_s),
        ]
        bound = _bound(bound_s)
        drawn.append(_distribution(name, list(sketch.sorted_bins()), latency, marks, bound, tone))
    return (
        "<section><h2>How long it took</h2>"
        '<p class="soft">Each column is a share of the requests; the scale is logarithmic.</p>'
        f'<div class="charts">{"".join(drawn)}</div></section>'
    )


def _distribution(
    name: str,
    bins: list[tuple[float, int]],
    latency: Latency,
    marks: list[Mark],
    bound: Mark | None,
    tone: str,
) -> str:
    shown = f"p50 {words.brief(latency.p50_s)}, p90 {words.brief(latency.p90_s)}, p99 {words.brief(latency.p99_s)}"
    all_marks = [*marks, bound] if bound is not None else marks
    # Names from left to right, so that none is written over another.
    drawn = charts.distribution(
        f"{name}: {shown}", bins, DURATIONS, sorted(all_marks, key=lambda one: one.value), tone
    )
    legend = (
        ""
        if bound is None
        else f'<span class="dashed t-bound">objective {words.tick(bound.value)}</span>'
    )
    return (
        f'<figure class="chart"><figcaption><h3>{escape(name)}</h3>'
        f'<div class="legend">{escape(shown)}{legend}</div></figcaption>{drawn}</figure>'
    )


def time_spent(page: Page) -> str:
    tones = (("queue", "amber"), ("prefill", "violet"), ("decode", "blue"), ("stalled", "red"))
    rows = [
        (row.name, [Series(phase, tone, [getattr(phases, f"{phase}_s")]) for phase, tone in tones])
        for row in page.models[:MOST_ROWS]
        if (phases := row.figures.phases) is not None
    ]
    causes = page.report.total.causes
    parts = []
    if rows:
        legend = [Series(phase, tone, []) for phase, tone in tones]
        parts.append(
            chart(
                "Where the time of a request goes, on average",
                legend,
                lambda title: charts.shares(title, rows, DURATIONS),
            )
        )
    if causes:
        drawn = [
            (one.cause, [Series("requests", "red", [one.requests])]) for one in causes[:MOST_ROWS]
        ]
        parts.append(
            chart(
                "Why requests did not succeed",
                [],
                lambda title: charts.shares(title, drawn, COUNTS),
            )
        )
    return f'<section><h2>Where time and requests went</h2><div class="charts">{"".join(parts)}</div></section>'


def tables(page: Page) -> Iterator[str]:
    yield _breakdown("By model", page.models)
    yield _breakdown("By key", page.keys)
    by = page.report.by
    if by not in (Axis.MODEL, Axis.KEY, page.time_axis):
        # Of hours and days, the last ones.
        rows = page.report.rows[-MOST_ROWS:] if by.is_time else page.report.rows
        yield _breakdown(f"By {by.value}", list(rows))
    yield _slowest(page.report)


def _breakdown(title: str, rows: list[Row]) -> str:
    head = (
        "",
        "Requests",
        "Share",
        "Success",
        "Goodput",
        "TTFT p50",
        "TTFT p99",
        "E2E p50",
        "E2E p99",
        "Queue p99",
        "Tokens/s",
    )
    body = [(row.name, *_breakdown_cells(row.figures, row.share)) for row in rows[:MOST_ROWS]]
    rest = len(rows) - len(body)
    more = f'<p class="soft">and {rest} more (--format csv has all)</p>' if rest > 0 else ""
    return f"<section><h2>{escape(title)}</h2>{table(head, body)}{more}</section>"


def _breakdown_cells(one: Figures, share: float) -> Iterator[str]:
    yield words.count(one.requests)
    yield words.share(share)
    yield words.share(one.success_rate)
    yield words.share(None if one.goodput is None else one.goodput.share)
    for latency, name in (
        (one.ttft, "p50_s"),
        (one.ttft, "p99_s"),
        (one.e2e, "p50_s"),
        (one.e2e, "p99_s"),
        (one.queue, "p99_s"),
    ):
        yield words.brief(None if latency is None else getattr(latency, name))
    yield words.count(one.output_tokens_per_s)


def _slowest(report: Report) -> str:
    head = (
        "Channel",
        "Model",
        "Key",
        "Ended, UTC",
        "End to end",
        "Queue",
        "Prefill",
        "Decode",
        "Stalled",
        "Takes",
        "Tokens",
    )
    body = [
        (
            one.channel_id,
            one.model,
            one.key_id,
            words.moment(one.finished_at.astimezone(UTC)),
            *map(words.brief, (one.e2e_s, one.queue_s, one.prefill_s, one.decode_s, one.stalled_s)),
            str(one.takes),
            words.count(one.output_tokens),
        )
        for one in report.slowest
    ]
    return (
        f"<section><h2>Slowest completed requests</h2>{table(head, body, words_until=4)}</section>"
    )
