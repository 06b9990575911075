"""The trace record of an ended request, and its MongoDB document. Pure.

Names follow OpenTelemetry's `gen_ai.*` and vLLM's phases. Durations are seconds. The phases sum to `e2e_s`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from relais_common.jobs.channels import channel_batch
from relais_common.jobs.errors import TracesFull
from relais_common.jobs.job import Operation, Priority, Status
from relais_common.jobs.records import StoredAnswer

COLLECTION = "traces"
"""Its name in the database."""

RETRY_AFTER_S = 5.0
SET_ASIDE_KEPT = 100
SET_ASIDE_TTL_S = 7 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """The phases of a request, in seconds by Redis's clock.

    Attributes:
        queue_s: waiting, before anything of its answer was published.
        prefill_s: held by a worker, before the first token of that take.
        decode_s: held by a worker, from that token on.
        stalled_s: waiting after part of the answer was published: its worker had died or was drained, or its place was
            handed on (`preemptions`). A dead one let go
            when it was last heard of, at its last renewal, some time before its lease was over.
    """

    queue_s: float
    prefill_s: float
    decode_s: float
    stalled_s: float

    @property
    def total_s(self) -> float:
        """Return the sum of all phases."""
        return self.queue_s + self.prefill_s + self.decode_s + self.stalled_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One finished request.

    Attributes:
        model: the declared model it was queued for.
        model_revision: the weights that ran it; None if it never ran.
        error_type, error_status: the error code of a `failed` request, and the HTTP status that goes with it.
        finish_reason: `stop` or `length` of a `completed` request.
        cancel_reason: of a `cancelled` request: `client` requested it, or `disconnect`: nobody read it any more.
        takes: how often a worker took it. failures: crashes charged to it.
        preemptions: how often its place was handed on to another key.
        answers: how many it has. longest_answer_tokens: of a `completed` request with several.
        output_tokens: published tokens, also of requests that did not complete.
        reasoning_tokens: of a `completed` request, the output tokens that are reasoning. tool_calls: of its answer.
            images: of its prompt.
        wasted_tokens: tokens generated for nobody: by requests that did not complete, or made void by a restart.
        accepted_at_s, finished_at_s: seconds since the epoch, Redis's clock.
        first_token_at_s: when the first token was published; None if none was, as for embeddings.
        content: what was asked and answered, where `TRACE_CONTENT=full`: `messages`, `prompt`, `prompts` or `embedding`
            as the request had them, and `chat` with its tools; `answer`, what was published of its text, and `message`,
            the whole answer where it is more; `answers`, all of several. More than 2 MiB of both is left out, and there
            is `omitted_bytes` alone.
            Vectors and images are never there.
    """

    channel_id: str
    key_id: str
    model: str
    model_revision: str | None
    operation: Operation
    priority: Priority
    status: Status
    error_type: str | None
    error_status: int | None = None
    finish_reason: str | None
    cancel_reason: str | None = None
    takes: int
    failures: int
    preemptions: int = 0
    answers: int = 1
    longest_answer_tokens: int | None = None
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    wasted_tokens: int
    reasoning_tokens: int = 0
    tool_calls: int = 0
    images: int = 0
    accepted_at_s: float
    first_token_at_s: float | None
    finished_at_s: float
    phases: Phases
    content: dict[str, Any] | None = None

    @property
    def e2e_s(self) -> float:
        """Return the seconds from acceptance to the end."""
        return self.phases.total_s

    @property
    def ttft_s(self) -> float | None:
        """Return the time to first token, from acceptance, including the queue."""
        if self.first_token_at_s is None:
            return None
        return max(0.0, self.first_token_at_s - self.accepted_at_s)

    @property
    def tpot_s(self) -> float | None:
        """Return the time per output token after the first; None for fewer than two tokens.

        Several answers are written at the same time: it is that of the longest, or of one with the mean of their tokens
        where the longest is not known.
        """
        tokens = max(self.output_tokens / self.answers, self.longest_answer_tokens or 0)
        if self.ttft_s is None or tokens <= 1:
            return None
        return max(0.0, self.e2e_s - self.ttft_s) / (tokens - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    """Whether and how a request leaves a trace.

    Attributes:
        content: whether it includes prompt and answer.
        max_waiting: traces of its model that may wait for the database before new requests are refused.
    """

    content: bool = False
    max_waiting: int


@dataclass(frozen=True, slots=True)
class WaitingTrace:
    """A trace on its way to the database, and the answer if it is stored; `entry_id` is its id in the queue."""

    entry_id: str
    trace: Trace
    answer: StoredAnswer | None = None


@dataclass(frozen=True, slots=True)
class TraceBatch:
    """A batch of traces for a writer.

    Attributes:
        more: whether further traces wait.
        unreadable: number of records that were set aside instead.
    """

    traces: tuple[WaitingTrace, ...]
    more: bool = False
    unreadable: int = 0


def traces_full(model: str, waiting: int) -> TracesFull:
    """Return the error for new requests. It has no `Retry-After`, because only the database makes room."""
    return TracesFull(
        f"{waiting} traces of requests to {model!r} wait to be written; try again later",
        retry_after_s=RETRY_AFTER_S,
    )


def trace_document(trace: Trace, *, recorded_at: datetime) -> dict[str, Any]:
    """Return the document for the collection `traces`; `recorded_at` is the time of writing, in UTC.

    Dates have millisecond precision, as in MongoDB. None values are omitted.
    """
    document: dict[str, Any] = {
        "_id": trace.channel_id,
        "key_id": trace.key_id,
        "model": trace.model,
        "model_revision": trace.model_revision,
        "operation": trace.operation.value,
        "priority": trace.priority.value,
        "batch_id": None
        if trace.priority is not Priority.BATCH
        else channel_batch(trace.channel_id),
        "status": trace.status.value,
        "error_type": trace.error_type,
        "error_status": trace.error_status,
        "finish_reason": trace.finish_reason,
        "cancel_reason": trace.cancel_reason,
        "takes": trace.takes,
        "failures": trace.failures,
        "preemptions": trace.preemptions,
        "answers": trace.answers,
        "longest_answer_tokens": trace.longest_answer_tokens,
        "input_tokens": trace.input_tokens,
        "output_tokens": trace.output_tokens,
        "cached_tokens": trace.cached_tokens,
        "wasted_tokens": trace.wasted_tokens,
        "reasoning_tokens": trace.reasoning_tokens,
        "tool_calls": trace.tool_calls,
        "images": trace.images,
        "accepted_at": _date(trace.accepted_at_s),
        "first_token_at": None if trace.first_token_at_s is None else _date(trace.first_token_at_s),
        "finished_at": _date(trace.finished_at_s),
        "recorded_at": recorded_at,
        "queue_s": trace.phases.queue_s,
        "prefill_s": trace.phases.prefill_s,
        "decode_s": trace.phases.decode_s,
        "stalled_s": trace.phases.stalled_s,
        "e2e_s": trace.e2e_s,
        "ttft_s": trace.ttft_s,
        "tpot_s": trace.tpot_s,
        "content": trace.content,
    }
    return {name: value for name, value in document.items() if value is not None}


def _date(seconds: float) -> datetime:
    return datetime.fromtimestamp(round(seconds, 3), UTC)
