"""Aggregates one hour's requests of one model, key, operation and priority. Pure: documents in, documents out."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from relais_common.insights.objectives import cell_of
from relais_common.insights.sketch import Sketch, microseconds
from relais_common.jobs.job import Operation, Status, StopReason

VERSION = 2
"""Version of the documents; with another version, hours count as not rolled up."""

HOUR = timedelta(hours=1)
SLOWEST = 5
"""Slowest requests kept per rollup, so that the slowest five of any breakdown are exact."""

ENDED = (Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.EXPIRED)
EXPIRED_CAUSE = Status.EXPIRED.value
"""The cause of requests whose deadline passed."""
UNKNOWN_CAUSE = "unknown"

PHASES = ("queue", "prefill", "decode", "stalled")
_PHASE_FIELDS = tuple(f"{phase}_s" for phase in PHASES)
_SUMS = (
    *("input_tokens", "output_tokens", "cached_tokens", "wasted_tokens", "reasoning_tokens"),
    *("tool_calls", "images", "takes", "failures"),
)
_WRITES_TOKENS = (Operation.CHAT.value, Operation.TEXT_COMPLETION.value)
_SHOWN_OF_SLOWEST = (
    *("model", "key_id", "operation", "priority", "finished_at", "takes", "output_tokens"),
    *("e2e_s", "ttft_s", *_PHASE_FIELDS),
)

TRACE_FIELDS = (
    *(
        "model",
        "key_id",
        "operation",
        "priority",
        "status",
        "error_type",
        "error_status",
        "cancel_reason",
    ),
    "finished_at",
    *_SUMS,
    *_PHASE_FIELDS,
    *("e2e_s", "ttft_s", "tpot_s"),
)
"""The fields of a trace that a rollup needs."""


@dataclass(frozen=True, slots=True, order=True)
class Group:
    """The key of a rollup."""

    hour: datetime
    model: str
    key_id: str
    operation: str
    priority: str

    @property
    def id(self) -> str:
        """Return the `_id` of its document. No name contains the separating line feed."""
        hour = self.hour.strftime("%Y-%m-%dT%H")
        return f"{hour}\n{self.model}\n{self.key_id}\n{self.operation}\n{self.priority}"

    @classmethod
    def of(cls, trace: Mapping[str, Any]) -> Group:
        """Return the group of a trace."""
        return cls(
            hour_of(trace["finished_at"]),
            trace["model"],
            trace["key_id"],
            trace["operation"],
            trace["priority"],
        )


@dataclass(slots=True)
class Rollup:
    """Sums and sketches of a set of requests; rollups of separate sets merge into that of both.

    Attributes:
        by_status: requests by how they ended.
        causes: requests that the service failed, by error type, and expired ones.
        mistakes: requests that failed by a mistake of their client (a 4xx), by error type.
        sums: of all requests: tokens by kind, takes by workers, crashes charged.
        abandoned: cancelled requests that nobody read any more.
        retried: requests that were taken more than once.
        judged, judged_tokens: completed and expired requests, and those that the service failed; of these, those of
            operations with tokens.
        phases_us: phases of completed requests, in microseconds.
        ttft, tpot, e2e: of completed requests; queue: of all.
        cells: completed requests as `objectives` counts them.
        slowest: completed requests, longest end-to-end time first.
    """

    by_status: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    mistakes: Counter[str] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)
    abandoned: int = 0
    retried: int = 0
    judged: int = 0
    judged_tokens: int = 0
    phases_us: Counter[str] = field(default_factory=Counter)
    ttft: Sketch = field(default_factory=Sketch)
    tpot: Sketch = field(default_factory=Sketch)
    e2e: Sketch = field(default_factory=Sketch)
    queue: Sketch = field(default_factory=Sketch)
    cells: Counter[int] = field(default_factory=Counter)
    slowest: list[dict[str, Any]] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """Return the number of requests."""
        return self.by_status.total()

    @property
    def completed(self) -> int:
        """Return the number of completed requests."""
        return self.by_status[Status.COMPLETED]

    def add(self, trace: Mapping[str, Any]) -> None:
        """Count one document of `traces`."""
        status = trace["status"]
        writes_tokens = trace["operation"] in _WRITES_TOKENS
        self.by_status[status] += 1
        for name in _SUMS:
            # Older traces and rollups have no `reasoning_tokens`, `tool_calls` and `images`.
            self.sums[name] += trace.get(name, 0)
        self.retried += trace["takes"] > 1
        self.queue.add(trace["queue_s"])
        mistaken = status == Status.FAILED and 400 <= trace.get("error_status", 500) < 500
        if status != Status.CANCELLED and not mistaken:
            self.judged += 1
            self.judged_tokens += writes_tokens
        if status == Status.FAILED:
            by_cause = self.mistakes if mistaken else self.causes
            by_cause[trace.get("error_type", UNKNOWN_CAUSE)] += 1
        elif status == Status.EXPIRED:
            self.causes[EXPIRED_CAUSE] += 1
        elif status == Status.CANCELLED:
            self.abandoned += trace.get("cancel_reason") == StopReason.DISCONNECT
        elif status == Status.COMPLETED:
            self._add_completed(trace, writes_tokens)

    def _add_completed(self, trace: Mapping[str, Any], writes_tokens: bool) -> None:
        ttft_s, tpot_s, e2e_s = trace.get("ttft_s"), trace.get("tpot_s"), trace["e2e_s"]
        self.e2e.add(e2e_s)
        if ttft_s is not None:
            self.ttft.add(ttft_s)
        if tpot_s is not None:
            self.tpot.add(tpot_s)
        for phase, name in zip(PHASES, _PHASE_FIELDS, strict=True):
            self.phases_us[phase] += microseconds(trace[name])
        self.cells[cell_of(ttft_s, tpot_s, e2e_s, writes_tokens=writes_tokens)] += 1
        if len(self.slowest) < SLOWEST or e2e_s >= self.slowest[-1]["e2e_s"]:
            one = {"channel_id": trace["_id"]}
            one |= {name: trace[name] for name in _SHOWN_OF_SLOWEST if name in trace}
            self._keep_slowest([one])

    def merge(self, other: Rollup) -> None:
        """Add another rollup to this one."""
        for mine, others in (
            (self.by_status, other.by_status),
            (self.causes, other.causes),
            (self.mistakes, other.mistakes),
            (self.sums, other.sums),
            (self.phases_us, other.phases_us),
        ):
            mine.update(others)
        self.cells.update(other.cells)
        self.abandoned += other.abandoned
        self.retried += other.retried
        self.judged += other.judged
        self.judged_tokens += other.judged_tokens
        self.ttft.merge(other.ttft)
        self.tpot.merge(other.tpot)
        self.e2e.merge(other.e2e)
        self.queue.merge(other.queue)
        self._keep_slowest(other.slowest)

    def _keep_slowest(self, more: Iterable[dict[str, Any]]) -> None:
        self.slowest = heapq.nlargest(SLOWEST, [*self.slowest, *more], key=_slowness)

    def to_document(self, group: Group) -> dict[str, Any]:
        """Return the document for `kpi_rollups`; it does not depend on the order of the traces."""
        cells = sorted(self.cells.items())
        return {
            "_id": group.id,
            "hour": group.hour,
            "model": group.model,
            "key_id": group.key_id,
            "operation": group.operation,
            "priority": group.priority,
            "requests": self.requests,
            "by_status": dict(self.by_status),
            # As pairs, because values of a trace may not be valid field names.
            "causes": _pairs(self.causes),
            "mistakes": _pairs(self.mistakes),
            "abandoned": self.abandoned,
            "retried": self.retried,
            "judged": self.judged,
            "judged_tokens": self.judged_tokens,
            **{name: self.sums[name] for name in _SUMS},
            "phases_us": {phase: self.phases_us[phase] for phase in PHASES},
            "ttft": self.ttft.to_document(),
            "tpot": self.tpot.to_document(),
            "e2e": self.e2e.to_document(),
            "queue": self.queue.to_document(),
            "cells": [cell for cell, _ in cells],
            "cell_counts": [count for _, count in cells],
            "slowest": self.slowest,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Rollup:
        """Read a rollup from its document."""
        return cls(
            by_status=Counter(document["by_status"]),
            causes=_counter(document["causes"]),
            # Earlier versions counted them among the causes.
            mistakes=_counter(document.get("mistakes", ())),
            sums=Counter({name: document.get(name, 0) for name in _SUMS}),
            abandoned=document["abandoned"],
            retried=document["retried"],
            judged=document["judged"],
            judged_tokens=document["judged_tokens"],
            phases_us=Counter(document["phases_us"]),
            ttft=Sketch.from_document(document["ttft"]),
            tpot=Sketch.from_document(document["tpot"]),
            e2e=Sketch.from_document(document["e2e"]),
            queue=Sketch.from_document(document["queue"]),
            cells=Counter(dict(zip(document["cells"], document["cell_counts"], strict=True))),
            slowest=list(document["slowest"]),
        )


def roll_up(traces: Iterable[Mapping[str, Any]], into: dict[Group, Rollup]) -> None:
    """Add trace documents to the rollups of their groups."""
    for trace in traces:
        group = Group.of(trace)
        rollup = into.get(group)
        if rollup is None:
            rollup = into[group] = Rollup()
        rollup.add(trace)


def hour_of(moment: datetime) -> datetime:
    """Return the start of a time's hour, in UTC."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _pairs(causes: Counter[str]) -> list[dict[str, Any]]:
    return [{"cause": one, "requests": count} for one, count in sorted(causes.items())]


def _counter(pairs: Iterable[Mapping[str, Any]]) -> Counter[str]:
    return Counter({one["cause"]: one["requests"] for one in pairs})


def _slowness(one: Mapping[str, Any]) -> tuple[float, str]:
    # With the id, so that ties do not depend on the order.
    return one["e2e_s"], one["channel_id"]
