"""What a worker measures: around its source of jobs, so that its loops know nothing of it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from relais_common.jobs.events import STATUS_OF, Cancelled, Completed, Expired, Failed, Terminal
from relais_common.jobs.job import Append, Lease, Operation, Status, Take, TakenJob, Verdict
from relais_common.queue.ports import JobSource
from relais_common.runtime.metrics import buckets
from relais_common.runtime.metrics.instruments import OTHER, Counter, Gauge, Histogram
from relais_common.runtime.metrics.labels import FINISHED_REASONS, error_types

MOST_RUNS = 10_000
"""Remembered at once. One whose end is never said here (Redis came back without it) leaves when it is the oldest."""

_ENDS = tuple(status for status in Status if status.is_terminal)


@dataclass(slots=True)
class _Run:
    """A job since its take.

    Attributes:
        accepted_s: on this process's monotonic clock.
        fresh: nobody has published tokens of it before.
        published_s: when its last tokens were in the log.
        prompt_tokens: counted already.
    """

    operation: Operation
    accepted_s: float
    fresh: bool
    published_s: float | None = None
    prompt_tokens: int = 0


class WorkerMetrics:
    """Of one worker process.

    Attributes:
        running, capacity, kv_cache_usage: gauges by model, for the service to `read` from.
        generation_tokens: a counter likewise.
    """

    def __init__(self, registry: CollectorRegistry, models: Sequence[str]) -> None:
        by_model = {"model_name": models}

        def histogram(name: str, documentation: str, bounds: Sequence[float]) -> Histogram:
            return Histogram(registry, name, documentation, by_model, buckets=bounds)

        def counter(name: str, documentation: str) -> Counter:
            return Counter(registry, name, documentation, by_model)

        def gauge(name: str, documentation: str) -> Gauge:
            return Gauge(registry, name, documentation, by_model)

        self.running = gauge("relais_num_requests_running", "Requests in this worker's hands.")
        self.capacity = gauge(
            "relais_num_requests_capacity", "Requests that this worker runs at once, at the most."
        )
        self.kv_cache_usage = gauge(
            "relais_kv_cache_usage_ratio", "Share of the engine's KV cache in use, 0 to 1."
        )
        self.generation_tokens = counter(
            "relais_generation_tokens_total",
            "Tokens that the engine gave, whatever became of them.",
        )
        self.prompt_tokens = counter(
            "relais_prompt_tokens_total",
            "Prompt tokens handed to the engine; again where a request goes on after a worker's death.",
        )
        self.cached_tokens = counter(
            "relais_prompt_tokens_cached_total",
            "Prompt tokens of completed requests that the engine found in its prefix cache.",
        )
        self.first_token = histogram(
            "relais_time_to_first_token_seconds",
            "From a request's acceptance, so with its time in the queue, to its first token in the log.",
            buckets.TIME_TO_FIRST_TOKEN_S,
        )
        self.gap = histogram(
            "relais_inter_token_latency_seconds",
            "Between a stream's successive additions to its log; tokens that came up together are one.",
            buckets.INTER_TOKEN_LATENCY_S,
        )
        self.per_token = histogram(
            "relais_request_time_per_output_token_seconds",
            "Of a completed request: from its first token to its last, over the tokens after the first.",
            buckets.INTER_TOKEN_LATENCY_S,
        )
        self.queue_time = histogram(
            "relais_request_queue_time_seconds",
            "From a request's acceptance to its first take.",
            buckets.REQUEST_LATENCY_S,
        )
        self.prefill_time = histogram(
            "relais_request_prefill_time_seconds",
            "Of a completed request: from the take to the engine's first token.",
            buckets.REQUEST_LATENCY_S,
        )
        self.decode_time = histogram(
            "relais_request_decode_time_seconds",
            "Of a completed request: from the engine's first token to its last.",
            buckets.REQUEST_LATENCY_S,
        )
        self.whole_time = Histogram(
            registry,
            "relais_e2e_request_latency_seconds",
            "From a request's acceptance to its end in the log, where a worker ended it.",
            by_model | {"status": _ENDS},
            buckets=buckets.REQUEST_LATENCY_S,
        )
        self.success = Counter(
            registry,
            "relais_request_success_total",
            "Requests that this worker completed.",
            by_model | {"operation": Operation, "finished_reason": FINISHED_REASONS},
        )
        self.ended = Counter(
            registry,
            "relais_requests_ended_total",
            "Requests that this worker ended; `error_type` is empty but for failed ones.",
            by_model | {"operation": Operation, "status": _ENDS, "error_type": error_types()},
        )
        self.takes = Counter(
            registry,
            "relais_takes_total",
            "Requests that this worker took: untouched, begun without a token, or within their answer.",
            by_model | {"kind": ("first", "again", "continued")},
        )
        self.takes.start_at_zero()
        self.lost = counter(
            "relais_leases_lost_total",
            "Requests that another worker took, or that ended, while this one still ran them.",
        )
        self.handed_back = counter(
            "relais_requests_handed_back_total",
            "Requests that this worker put back: it was stopped, or its engine died.",
        )
        self.preempted = counter(
            "relais_requests_preempted_total",
            "Requests whose place this worker handed on to a key that ran less; they go on later.",
        )
        self.batch = Histogram(
            registry,
            "relais_append_events",
            "Events in one call that adds to logs, of all streams together.",
            buckets=buckets.EVENTS,
        )

    def around(self, source: JobSource, model: str) -> JobSource:
        """The same source, watched; it serves this model."""
        return _WatchedSource(source, _ModelMetrics(self, model))


class _ModelMetrics:
    """Of one model, and of the jobs of it that are in this worker's hands."""

    def __init__(self, of: WorkerMetrics, model: str) -> None:
        self._model = model
        self._whole_time, self._success, self._ended = of.whole_time, of.success, of.ended
        # What is on the path of a token is looked up once.
        self._prompt_tokens, self._cached_tokens = (
            of.prompt_tokens.of(model),
            of.cached_tokens.of(model),
        )
        self._first_token, self._gap = of.first_token.of(model), of.gap.of(model)
        self._per_token, self._queue_time = of.per_token.of(model), of.queue_time.of(model)
        self._prefill_time, self._decode_time = of.prefill_time.of(model), of.decode_time.of(model)
        self._first_takes, self._more_takes = (
            of.takes.of(model, "first"),
            of.takes.of(model, "again"),
        )
        self._continued = of.takes.of(model, "continued")
        self._lost, self._handed_back = of.lost.of(model), of.handed_back.of(model)
        self._preempted = of.preempted.of(model)
        self._batch = of.batch.of()
        self._runs: dict[str, _Run] = {}

    def taken(self, taken: TakenJob) -> None:
        now_s = time.monotonic()
        fresh = taken.interrupted is None
        if not fresh:
            self._continued.add()
        elif taken.tail <= 1:
            self._first_takes.add()
            self._queue_time.observe(taken.queued_s)
        else:
            self._more_takes.add()
        while len(self._runs) >= MOST_RUNS:
            del self._runs[next(iter(self._runs))]
        self._runs[taken.lease.channel_id] = _Run(
            taken.job.operation, now_s - taken.queued_s, fresh
        )

    def started(self, verdict: Verdict, lease: Lease, prompt_tokens: int) -> None:
        if not verdict.held:
            self.lose(lease)
            return
        self._prompt_tokens.add(prompt_tokens)
        run = self._runs.get(lease.channel_id)
        if run is not None:
            run.prompt_tokens += prompt_tokens

    def appended(self, appends: Sequence[Append], verdicts: Sequence[Verdict]) -> None:
        now_s = time.monotonic()
        events = 0
        for append, verdict in zip(appends, verdicts, strict=True):
            if not verdict.held:
                self.lose(append.lease)
                continue
            events += len(append.lines)
            run = self._runs.get(append.lease.channel_id)
            if append.emits and run is not None:
                self._published(run, now_s)
        if appends:
            self._batch.observe(events)

    def renewed(self, leases: Sequence[Lease], verdicts: Sequence[Verdict]) -> None:
        for lease, verdict in zip(leases, verdicts, strict=True):
            if not verdict.held:
                self.lose(lease)

    def finished(self, lease: Lease, terminal: Terminal, *, with_tokens: bool) -> None:
        """It has been written down."""
        run = self._runs.pop(lease.channel_id, None)
        if run is None:
            return
        now_s = time.monotonic()
        if with_tokens:
            self._published(run, now_s)
        status = STATUS_OF[type(terminal)]
        self._whole_time.of(self._model, status).observe(now_s - run.accepted_s)
        self._ended.of(self._model, run.operation, status, _error_type(terminal)).add()
        if isinstance(terminal, Completed):
            self._success.of(self._model, run.operation, terminal.finish_reason).add()
            self._measure(terminal, run)

    def released(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            if self._runs.pop(lease.channel_id, None) is not None:
                self._handed_back.add()

    def preempted(self, channel_ids: Sequence[str]) -> None:
        for channel_id in channel_ids:
            if self._runs.pop(channel_id, None) is not None:
                self._preempted.add()

    def _measure(self, completed: Completed, run: _Run) -> None:
        timings, usage = completed.timings, completed.usage
        self._cached_tokens.add(usage.cached_tokens)
        # A server elsewhere may tell how many there were at the end only.
        self._prompt_tokens.add(max(0, (usage.input_tokens or 0) - run.prompt_tokens))
        self._prefill_time.observe(timings.prefill_s)
        self._decode_time.observe(timings.decode_s)
        # Of a continued one the usage counts tokens that came up elsewhere.
        if run.fresh and usage.output_tokens > 1:
            self._per_token.observe(timings.decode_s / (usage.output_tokens - 1))

    def _published(self, run: _Run, now_s: float) -> None:
        if run.published_s is not None:
            self._gap.observe(now_s - run.published_s)
        elif run.fresh:
            self._first_token.observe(now_s - run.accepted_s)
        run.published_s = now_s

    def lose(self, lease: Lease) -> None:
        """It is not this worker's any more."""
        if self._runs.pop(lease.channel_id, None) is not None:
            self._lost.add()


def _error_type(terminal: Terminal) -> str | None:
    match terminal:
        case Failed(error):
            return error.code or OTHER
        case Cancelled() | Expired() | Completed():
            return None


class _WatchedSource:
    """`JobSource`: passes everything on, and says what came of it."""

    def __init__(self, source: JobSource, metrics: _ModelMetrics) -> None:
        self._source = source
        self._metrics = metrics

    async def take(
        self,
        model: str,
        limit: int,
        *,
        worker_id: str,
        call_id: str,
        lease_s: float,
        idle: bool,
        held: int = 0,
        waited: int | None = None,
        without: Collection[str] = (),
        offers: Sequence[Lease] = (),
    ) -> Take:
        take = await self._source.take(
            model,
            limit,
            worker_id=worker_id,
            call_id=call_id,
            lease_s=lease_s,
            idle=idle,
            held=held,
            waited=waited,
            without=without,
            offers=offers,
        )
        self._metrics.preempted(take.preempted)
        for taken in take.jobs:
            self._metrics.taken(taken)
        return take

    async def start(
        self, lease: Lease, *, prompt_token_ids: Sequence[int], model_revision: str
    ) -> Verdict:
        verdict = await self._source.start(
            lease, prompt_token_ids=prompt_token_ids, model_revision=model_revision
        )
        self._metrics.started(verdict, lease, len(prompt_token_ids))
        return verdict

    async def append(self, appends: Sequence[Append]) -> list[Verdict]:
        verdicts = await self._source.append(appends)
        self._metrics.appended(appends, verdicts)
        return verdicts

    async def finish(
        self,
        lease: Lease,
        *,
        first_seq: int,
        lines: Sequence[bytes] = (),
        terminal: Terminal,
        text: str,
        vectors: bytes = b"",
    ) -> Verdict:
        verdict = await self._source.finish(
            lease,
            first_seq=first_seq,
            lines=lines,
            terminal=terminal,
            text=text,
            vectors=vectors,
        )
        if not verdict.held:
            self._metrics.lose(lease)
        elif verdict.tail >= first_seq:
            self._metrics.finished(lease, terminal, with_tokens=bool(lines))
        return verdict

    async def renew(self, leases: Sequence[Lease], *, lease_s: float) -> list[Verdict]:
        verdicts = await self._source.renew(leases, lease_s=lease_s)
        self._metrics.renewed(leases, verdicts)
        return verdicts

    async def release(
        self, leases: Sequence[Lease], *, max_failures: int | None = None, blamed: bool = False
    ) -> None:
        await self._source.release(leases, max_failures=max_failures, blamed=blamed)
        self._metrics.released(leases)

    async def wait_for_work(self, model: str, *, timeout_s: float) -> None:
        await self._source.wait_for_work(model, timeout_s=timeout_s)

    def stop_requests(self, model: str) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        return self._source.stop_requests(model)
