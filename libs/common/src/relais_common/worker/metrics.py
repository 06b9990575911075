"""Metrics of a worker, and of each job from its take on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry

from relais_common.jobs.events import STATUS_OF, Completed, Failed, Terminal
from relais_common.jobs.job import Operation, Status, TakenJob
from relais_common.runtime.metrics import buckets
from relais_common.runtime.metrics.instruments import OTHER, Counter, Gauge, Histogram
from relais_common.runtime.metrics.labels import FINISHED_REASONS, error_types

_ENDS = tuple(status for status in Status if status.is_terminal)


class _ByModel:
    """Makes instruments whose first label is the model."""

    def __init__(self, registry: CollectorRegistry, models: Sequence[str]) -> None:
        self._registry = registry
        self._models: dict[str, Iterable[str]] = {"model_name": models}

    def gauge(self, name: str, documentation: str) -> Gauge:
        return Gauge(self._registry, name, documentation, self._models)

    def counter(self, name: str, documentation: str, **labels: Iterable[str]) -> Counter:
        return Counter(self._registry, name, documentation, self._models | labels)

    def seconds(
        self, name: str, bounds: Sequence[float], documentation: str, **labels: Iterable[str]
    ) -> Histogram:
        every = self._models | labels
        return Histogram(self._registry, name, documentation, every, buckets=bounds)


class WorkerMetrics:
    """Metrics of one worker process.

    Attributes:
        running, capacity, kv_cache_usage: gauges by model, which the service connects with `read`.
        tokens: counters by model; the service connects that of generated tokens with `read`.
        durations, outcomes: durations of jobs, and how they came and went.
        batch: number of events in one `append`.
    """

    def __init__(self, registry: CollectorRegistry, models: Sequence[str]) -> None:
        make = _ByModel(registry, models)
        self.running = make.gauge("relais_num_requests_running", "Requests in this worker's hands.")
        self.capacity = make.gauge(
            "relais_num_requests_capacity", "Requests that this worker runs at once, at the most."
        )
        self.kv_cache_usage = make.gauge(
            "relais_kv_cache_usage_ratio", "Share of the engine's KV cache in use, 0 to 1."
        )
        self.tokens = _Tokens(make)
        self.durations = _Durations(make)
        self.outcomes = _Outcomes(make)
        self.batch = Histogram(
            registry,
            "relais_append_events",
            "Events in one call that adds to logs, of all streams together.",
            buckets=buckets.EVENTS,
        ).of()


class _Tokens:
    def __init__(self, make: _ByModel) -> None:
        self.generated = make.counter(
            "relais_generation_tokens_total",
            "Tokens that the engine gave, whatever became of them.",
        )
        self.prompt = make.counter(
            "relais_prompt_tokens_total",
            "Prompt tokens handed to the engine; again where a request goes on after a worker's death.",
        )
        self.cached = make.counter(
            "relais_prompt_tokens_cached_total",
            "Prompt tokens of completed requests that the engine found in its prefix cache.",
        )
        self.reasoning = make.counter(
            "relais_reasoning_tokens_total",
            "Generated tokens of completed requests that are reasoning, where they are told apart.",
        )
        self.images = make.counter(
            "relais_prompt_images_total", "Images in prompts of completed requests."
        )


class _Durations:
    def __init__(self, make: _ByModel) -> None:
        self.first_token = make.seconds(
            "relais_time_to_first_token_seconds",
            buckets.TIME_TO_FIRST_TOKEN_S,
            "From a request's acceptance, so with its time in the queue, to its first token in the log.",
        )
        self.gap = make.seconds(
            "relais_inter_token_latency_seconds",
            buckets.INTER_TOKEN_LATENCY_S,
            "Between a stream's successive additions to its log; tokens that came up together are one.",
        )
        self.per_token = make.seconds(
            "relais_request_time_per_output_token_seconds",
            buckets.INTER_TOKEN_LATENCY_S,
            "Of a completed request: from its first token to its last, over the tokens after the first.",
        )
        self.queue = make.seconds(
            "relais_request_queue_time_seconds",
            buckets.REQUEST_LATENCY_S,
            "From a request's acceptance to its first take.",
        )
        self.prefill = make.seconds(
            "relais_request_prefill_time_seconds",
            buckets.REQUEST_LATENCY_S,
            "Of a completed request: from the take to the engine's first token.",
        )
        self.decode = make.seconds(
            "relais_request_decode_time_seconds",
            buckets.REQUEST_LATENCY_S,
            "Of a completed request: from the engine's first token to its last.",
        )
        self.whole = make.seconds(
            "relais_e2e_request_latency_seconds",
            buckets.REQUEST_LATENCY_S,
            "From a request's acceptance to its end in the log, where a worker ended it.",
            status=_ENDS,
        )


class _Outcomes:
    def __init__(self, make: _ByModel) -> None:
        self.success = make.counter(
            "relais_request_success_total",
            "Requests that this worker completed.",
            operation=Operation,
            finished_reason=FINISHED_REASONS,
        )
        self.ended = make.counter(
            "relais_requests_ended_total",
            "Requests that this worker ended; `error_type` is empty but for failed ones.",
            operation=Operation,
            status=_ENDS,
            error_type=error_types(),
        )
        self.takes = make.counter(
            "relais_takes_total",
            "Requests that this worker took: untouched, begun without a token, or within their answer.",
            kind=("first", "again", "continued"),
        )
        self.takes.start_at_zero()
        self.tool_calls = make.counter(
            "relais_tool_calls_total",
            "Tool calls of completed requests: read, or written by the model in a form that cannot be read.",
            outcome=("read", "unreadable"),
        )
        self.lost = make.counter(
            "relais_leases_lost_total",
            "Requests that another worker took, or that ended, while this one still ran them.",
        )
        self.handed_back = make.counter(
            "relais_requests_handed_back_total",
            "Requests that this worker put back: it was stopped, or its engine died.",
        )
        self.preempted = make.counter(
            "relais_requests_preempted_total",
            "Requests whose place this worker handed on to a key that ran less; they go on later.",
        )


class JobMetrics:
    """Measures one job, from its take until it leaves this worker."""

    def __init__(self, of: WorkerMetrics, taken: TakenJob) -> None:
        self._of, self._model, self._operation = of, taken.job.model, taken.job.operation
        self._gap = of.durations.gap.of(self._model)  # looked up once, because each token needs it
        self._accepted_s = time.monotonic() - taken.queued_s
        self._fresh = taken.interrupted is None  # nobody has published tokens of it before
        self._published_s: float | None = None
        self._prompt_tokens = 0
        self._has_left = False
        kind = "again" if self._fresh else "continued"
        if self._fresh and taken.tail <= 1:
            kind = "first"
            of.durations.queue.of(self._model).observe(taken.queued_s)
        of.outcomes.takes.of(self._model, kind).inc()

    def started(self, prompt_tokens: int) -> None:
        """Note that the engine has accepted its prompt."""
        self._prompt_tokens += prompt_tokens
        self._of.tokens.prompt.of(self._model).inc(prompt_tokens)

    def published(self) -> None:
        """Note that the log has more of its tokens."""
        if self._has_left:
            return
        now_s = time.monotonic()
        if self._published_s is not None:
            self._gap.observe(now_s - self._published_s)
        elif self._fresh:
            self._of.durations.first_token.of(self._model).observe(now_s - self._accepted_s)
        self._published_s = now_s

    def finished(self, terminal: Terminal, *, with_tokens: bool) -> None:
        """Note that the log has its end, and whether tokens came with it."""
        if with_tokens:
            self.published()
        of, model, status = self._of, self._model, STATUS_OF[type(terminal)]
        error_type = terminal.error.code or OTHER if isinstance(terminal, Failed) else None
        if not self._leaves(of.outcomes.ended, self._operation, status, error_type):
            return
        of.durations.whole.of(model, status).observe(time.monotonic() - self._accepted_s)
        if isinstance(terminal, Completed):
            of.outcomes.success.of(model, self._operation, terminal.finish_reason).inc()
            self._measure(terminal)

    def _measure(self, completed: Completed) -> None:
        of, model, timings, usage = self._of, self._model, completed.timings, completed.usage
        of.tokens.cached.of(model).inc(usage.cached_tokens)
        of.tokens.reasoning.of(model).inc(usage.reasoning_tokens or 0)
        of.tokens.images.of(model).inc(usage.images)
        for answer in completed.answers or (completed,):
            if answer.message is not None:
                of.outcomes.tool_calls.of(model, "read").inc(len(answer.message.tool_calls))
        # A remote server may report the number only at the end.
        of.tokens.prompt.of(model).inc(max(0, (usage.input_tokens or 0) - self._prompt_tokens))
        of.durations.prefill.of(model).observe(timings.prefill_s)
        of.durations.decode.of(model).observe(timings.decode_s)
        # The usage of a continued job includes tokens of other workers.
        if self._fresh and usage.output_tokens > 1:
            per_token_s = timings.decode_s / (usage.output_tokens - 1)
            of.durations.per_token.of(model).observe(per_token_s)

    def unreadable_call(self) -> None:
        """Count a tool call that cannot be read, or a missing one that was demanded."""
        self._of.outcomes.tool_calls.of(self._model, "unreadable").inc()

    def handed_back(self) -> None:
        """Note that it waits again, because this worker stops or its engine has died."""
        self._leaves(self._of.outcomes.handed_back)

    def preempted(self) -> None:
        """Note that it waits again, because another key has its place."""
        self._leaves(self._of.outcomes.preempted)

    def lost(self) -> None:
        """Note that this worker has lost it."""
        self._leaves(self._of.outcomes.lost)

    def _leaves(self, how: Counter, *labels: str | None) -> bool:
        """Count how it leaves; return False if it has left already."""
        if self._has_left:
            return False
        self._has_left = True
        how.of(self._model, *labels).inc()
        return True
