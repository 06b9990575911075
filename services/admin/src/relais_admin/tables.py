"""Renders views as tables of 80 columns. Names of keys and workers are truncated if necessary, ids never."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from relais_common.jobs.inspection import ChannelView, DeadLetter, QueueView
from relais_common.jobs.job import Status, WorkerState

T = TypeVar("T")
NONE = "-"


def queues(views: Sequence[QueueView]) -> RenderableType:
    """Render one line per model, then each model's longest backlogs."""
    table = _table(
        _name("MODEL"),
        *map(_number, ("WAITING", "HIGH", "NORMAL", "LOW", "OLDEST", "SUSPECT", "RUNNING")),
        *map(_number, ("DEAD", "SERVICE", "WAIT")),
    )
    for one in views:
        _add(
            table,
            one.model,
            one.waiting,
            one.waiting_by_priority["high"],
            one.waiting_by_priority["normal"],
            one.waiting_by_priority["low"],
            duration(one.oldest_waiting_s),
            one.suspects,
            one.running,
            one.dead_letters,
            duration(one.service_s),
            duration(one.estimated_wait_s),
        )
    backlogs = [
        Text(
            f"\n{one.model}, waiting by key: "
            + ", ".join(f"{entry.key_id} {entry.waiting}" for entry in one.waiting_by_key)
        )
        for one in views
        if one.waiting_by_key
    ]
    held = [Text(f"\n{one.model} holds {one.stored_bytes / 1e6:,.1f} MB") for one in views]
    traces = [
        Text(
            f"\n{one.model}: {one.waiting_traces} traces wait to be written, "
            f"the oldest for {duration(one.oldest_trace_s)}"
        )
        for one in views
        if one.waiting_traces
    ]
    return Group(table, *backlogs, *held, *traces)


def workers(states: Sequence[WorkerState]) -> RenderableType:
    """Render one line per worker."""
    if not states:
        return Text("no workers")
    table = _table(
        _name("WORKER"),
        _name("MODEL"),
        *map(_number, ("RUNNING", "KV-CACHE", "CONTEXT")),
        _word("STATE"),
    )
    for one in states:
        _add(
            table,
            one.worker_id,
            one.model,
            f"{one.running}/{one.capacity}",
            NONE if one.kv_cache_usage is None else f"{one.kv_cache_usage:.0%}",
            one.max_model_len,
            _worker_state(one),
        )
    return table


def _worker_state(one: WorkerState) -> str:
    if one.draining:
        return "draining"
    return "ready" if one.not_ready is None else "not ready"


def channels(found: dict[str, list[ChannelView]]) -> RenderableType:
    """A table per model."""
    return _per_model(
        found,
        "no channels",
        lambda: (
            _word("CHANNEL"),
            _word("STATUS"),
            _word("PRIO"),
            _number("AGE"),
            _name("KEY"),
            _name("WORKER"),
            *map(_number, ("TAKES", "FAILS", "EVENTS")),
        ),
        lambda one: (
            short(one.channel_id),
            channel_status(one),
            one.priority,
            duration(one.age_s),
            one.key_id,
            one.worker,
            one.takes,
            one.failures,
            one.tail,
        ),
    )


def dead_letters(found: dict[str, list[DeadLetter]]) -> RenderableType:
    """A table per model."""
    return _per_model(
        found,
        "no dead letters",
        lambda: (
            _word("CHANNEL"),
            _word("FAILED"),
            _number("FAILS"),
            _word("REASON"),
            _name("KEY"),
            _name("WORKER"),
        ),
        lambda one: (
            short(one.channel_id),
            moment(one.failed_at_s),
            one.failures,
            one.code,
            one.key_id,
            one.worker,
        ),
    )


def _per_model(
    found: dict[str, list[T]],
    nothing: str,
    columns: Callable[[], Iterable[Column]],
    cells: Callable[[T], Iterable[object]],
) -> RenderableType:
    """Render a table per model, or a line that says that there is nothing."""
    tables: list[RenderableType] = []
    for model, views in found.items():
        if not views:
            tables.append(Text(f"{model}: {nothing}"))
            continue
        table = _table(*columns(), title=model)
        for one in views:
            _add(table, *cells(one))
        tables.append(table)
    return Group(*tables)


def dead_letter(one: DeadLetter) -> RenderableType:
    """Render all fields, one per line."""
    grid = Table.grid(Column(style="bold"), Column(overflow="fold"), padding=(0, 2, 0, 0))
    for name, value in (
        ("channel", one.channel_id),
        ("key", one.key_id),
        ("operation", one.operation),
        ("priority", one.priority),
        ("accepted", moment(one.accepted_at_s)),
        ("failed", moment(one.failed_at_s)),
        ("reason", f"{one.code or NONE}: {one.message}"),
        ("last worker", one.worker),
        ("takes", one.takes),
        ("failures", one.failures),
        ("request", f"{one.request_bytes} bytes" if one.request_bytes else "deleted"),
        ("replayed as", one.replayed_as),
    ):
        _add(grid, name, value)
    return grid


def short(channel_id: str) -> str:
    """Return the unique part of a channel id, which commands accept in place of the whole."""
    return "." + channel_id.rpartition(".")[2]


def channel_status(one: ChannelView) -> str:
    """Return the status, with what an operator should know about it."""
    if one.stop is not None:
        return "stopping"
    if one.status is Status.QUEUED and one.failures:
        return "suspect"
    return one.status


def duration(seconds: float | None) -> str:
    """Format a duration with at most two units: `0.4s`, `12s`, `3m20s`, `2h05m`, `4d11h`."""
    if seconds is None:
        return NONE
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"


def moment(at_s: float) -> str:
    """Format seconds since the epoch in this machine's time zone."""
    return datetime.fromtimestamp(at_s, tz=UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def _table(*columns: Column, title: str | None = None) -> Table:
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    if title is not None:
        table.title, table.title_justify = Text(title), "left"
    return table


def _name(header: str) -> Column:
    """A column for names of any length, which gets the remaining width."""
    return Column(header, overflow="ellipsis")


def _word(header: str) -> Column:
    return Column(header, no_wrap=True)


def _number(header: str) -> Column:
    return Column(header, no_wrap=True, justify="right")


def _add(table: Table, *cells: object) -> None:
    # As text, because a name in square brackets is not markup.
    table.add_row(*_texts(cells))


def _texts(cells: Iterable[object]) -> Iterable[Text]:
    return (Text(NONE if cell is None else str(cell)) for cell in cells)
