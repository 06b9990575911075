"""Renders a report for a terminal of 80 columns. If space is short, names are cut, numbers never."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from relais_common.insights.batches import MAX_BATCHES
from relais_common.insights.figures import Cause, Figures
from relais_common.insights.report import Axis, Report, Row
from relais_kpi.rendering import words
from relais_kpi.rendering.measured import met, p50, p99
from relais_kpi.rendering.summary import beside, findings, missed, sentences

MOST_ROWS = 30
MOST_KEYS = 5
MOST_CAUSES = 5
MOST_BATCHES = 10


def render(report: Report, now: datetime) -> RenderableType:
    """Return the whole report, from the summary to the slowest requests."""
    parts: list[RenderableType] = [
        Text(
            f"{words.moment(report.since)} to {words.moment(report.until)} UTC, {beside(report)}",
            style="bold",
        ),
        Text(" ".join(sentences(report))),
        *(Text(f"! {one.what} {one.advice}", style="yellow") for one in findings(report, now)),
    ]
    if report.total.requests:
        parts += [
            _totals(report),
            _latencies(report),
            _rows(report),
            *_keys(report),
            _slowest(report),
        ]
    if report.batches:
        parts.append(_batches(report))
    return Group(*(Padding(part, (0, 0, 1, 0)) for part in parts))


class _Totals:
    """Rows of figures beside those of the period before."""

    def __init__(self, now: Figures, before: Figures) -> None:
        self._columns = ("NOW", "BEFORE", "CHANGE") if before.requests else ("NOW",)
        self._now, self._before = now, before
        self.table = _table(_name(""), *map(_number, self._columns))

    def _add(self, name: str, *cells: str) -> None:
        _add(self.table, name, *cells[: len(self._columns)])

    def count(
        self, name: str, of: Callable[[Figures], float], *, unless_zero: bool = False
    ) -> None:
        now, before = of(self._now), of(self._before)
        if now or before or not unless_zero:
            self._add(name, words.count(now), words.count(before), words.change(now, before))

    def share(self, name: str, now: float | None, before: float | None) -> None:
        self._add(name, words.share(now), words.share(before), words.points(now, before))

    def part(self, name: str, of: Callable[[Figures], int]) -> None:
        parts = [
            of(one) / one.requests if one.requests else None for one in (self._now, self._before)
        ]
        self.share(name, *parts)

    def causes(self, of: Callable[[Figures], Sequence[Cause]]) -> None:
        earlier = of(self._before)
        for cause in of(self._now)[:MOST_CAUSES]:
            self.share(f"  {cause.cause}", cause.share, _share_of(cause, earlier, self._before))


def _totals(report: Report) -> Table:
    now, before = report.total, report.previous
    rows = _Totals(now, before)
    rows.count("requests", lambda one: one.requests)
    rows.share("success rate", now.success_rate, before.success_rate)
    rows.causes(lambda one: one.causes)
    rows.part("mistakes of clients", lambda one: one.mistaken)
    rows.causes(lambda one: one.mistakes)
    rows.part("cancelled", lambda one: one.cancelled)
    rows.part("  client gone", lambda one: one.abandoned)
    rows.part("retried", lambda one: one.retried)
    if now.goodput is not None and before.goodput is not None:
        rows.share("goodput", now.goodput.share, before.goodput.share)
        was = dict(missed(before.goodput))
        for why, share in missed(now.goodput):
            none = 0.0 if before.goodput.judged else None
            rows.share(f"  missed: {why}", share, was.get(why, none))
    rows.count("input tokens/s", lambda one: one.input_tokens_per_s)
    rows.count("output tokens/s", lambda one: one.output_tokens_per_s)
    rows.count("wasted tokens", lambda one: one.wasted_tokens)
    rows.count("reasoning tokens", lambda one: one.reasoning_tokens, unless_zero=True)
    rows.count("tool calls", lambda one: one.tool_calls, unless_zero=True)
    rows.count("images", lambda one: one.images, unless_zero=True)
    return rows.table


def _share_of(cause: Cause, earlier: Sequence[Cause], before: Figures) -> float | None:
    none = 0.0 if before.requests else None
    return next((one.share for one in earlier if one.cause == cause.cause), none)


def _latencies(report: Report) -> Table:
    compared = ("P99 BEFORE", "CHANGE") if report.previous.requests else ()
    columns = ("P50", "P90", "P99", "MAX", *compared)
    table = _table(_name("LATENCY"), *map(_number, columns))
    for name, now, before in (
        ("first token (TTFT)", report.total.ttft, report.previous.ttft),
        ("per token (TPOT)", report.total.tpot, report.previous.tpot),
        ("end to end", report.total.e2e, report.previous.e2e),
        ("in the queue", report.total.queue, report.previous.queue),
    ):
        if now is None:
            continue
        was = None if before is None else before.p99_s
        durations = (now.p50_s, now.p90_s, now.p99_s, now.max_s, was)
        cells = [*map(words.brief, durations), words.change(now.p99_s, was)]
        _add(table, name, *cells[: len(columns)])
    return table


def _rows(report: Report) -> RenderableType:
    table = _table(
        _name(f"BY {report.by.upper()}"),
        *map(_number, ("REQUESTS", "SHARE", "OK", "GOOD", "TTFT P50", "P99", "E2E P99", "TOK/S")),
    )
    # Of hours and days, the last ones.
    shown = report.rows[-MOST_ROWS:] if report.by.is_time else report.rows[:MOST_ROWS]
    for row in shown:
        _add(table, _row_name(report.by, row), *_row_cells(row))
    left_out = len(report.rows) + report.rows_left_out - len(shown)
    return Group(table, Text(f"... and {left_out} more (--format csv)")) if left_out else table


def _row_name(by: Axis, row: Row) -> str:
    return row.name[:-1].replace("T", " ") if by is Axis.HOUR else row.name


def _row_cells(row: Row) -> Iterable[str]:
    one = row.figures
    yield words.count(one.requests)
    yield words.share(row.share)
    yield words.share(one.success_rate)
    yield words.share(met(one.goodput))
    yield words.brief(p50(one.ttft))
    yield words.brief(p99(one.ttft))
    yield words.brief(p99(one.e2e))
    yield words.count(one.output_tokens_per_s)


def _keys(report: Report) -> Iterable[RenderableType]:
    if report.by is not Axis.KEY and len(report.keys) > 1:
        shares = (
            f"{one.key_id} {words.share(one.requests_share)}" for one in report.keys[:MOST_KEYS]
        )
        rest = len(report.keys) - MOST_KEYS
        more = f", and {rest} more (--by key)" if rest > 0 else ""
        yield Text(f"Requests by key: {', '.join(shares)}{more}")
    peaks = (f"{words.moment(one.hour)} ({words.count(one.requests)})" for one in report.peak_hours)
    yield Text(f"Peak hours, UTC: {', '.join(peaks)}")


def _slowest(report: Report) -> RenderableType:
    table = _table(
        _word("SLOWEST"),
        _name("MODEL"),
        _name("KEY"),
        *map(_number, ("E2E", "QUEUE", "STALLED", "TOKENS")),
    )
    for one in report.slowest:
        _add(
            table,
            "." + one.channel_id.rpartition(".")[2],
            one.model,
            one.key_id,
            words.brief(one.e2e_s),
            words.brief(one.queue_s),
            words.brief(one.stalled_s),
            words.count(one.output_tokens),
        )
    return table


def _batches(report: Report) -> RenderableType:
    table = _table(
        _word("BATCH"),
        _name("KEY"),
        _name("MODEL"),
        _word("STATUS"),
        *map(_number, ("REQUESTS", "FAILED", "TOKENS", "TOOK")),
    )
    shown = report.batches[:MOST_BATCHES]
    for one in shown:
        _add(
            table,
            f"...{one.batch_id[-8:]}",
            one.key_id,
            one.model or words.NONE,
            one.status,
            words.count(one.requests),
            words.count(one.failed),
            words.count(one.input_tokens + one.output_tokens),
            words.brief(one.duration_s),
        )
    left_out = len(report.batches) + report.batches_left_out - len(shown)
    more = f"... and {left_out} smaller ones (--format json has up to {MAX_BATCHES})"
    return Group(table, Text(more)) if left_out else table


def _table(*columns: Column) -> Table:
    return Table(*columns, box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")


def _name(header: str) -> Column:
    """Return a column of names, which takes the remaining width."""
    return Column(header, overflow="ellipsis")


def _word(header: str) -> Column:
    return Column(header, no_wrap=True)


def _number(header: str) -> Column:
    return Column(header, no_wrap=True, justify="right")


def _add(table: Table, *cells: str) -> None:
    # As text: a name in square brackets is no markup.
    table.add_row(*(Text(cell) for cell in cells))
