"""Computes figures from rollups. Frozen types, pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from relais_common.insights.objectives import Objectives
from relais_common.insights.rollups import PHASES, Rollup
from relais_common.insights.sketch import Sketch
from relais_common.jobs.job import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Durations in seconds; quantiles within the report's `relative_error`, mean and maximum exact."""

    count: int
    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    max_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Requests that failed with this error type, or expired; `share` of those that success is judged by.

    For mistakes of clients, `share` is that of all requests.
    """

    cause: str
    requests: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """Requests that missed each objective, as shares of those judged; one request may miss several.

    Attributes:
        ttft, tpot, e2e: completed too late; None without such an objective.
        not_completed: failed or expired.
    """

    ttft: float | None
    tpot: float | None
    e2e: float | None
    not_completed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodput:
    """Requests that completed within all objectives.

    Attributes:
        met: their number.
        judged: completed, failed and expired requests to which the objectives apply.
        share: `met` as a share of `judged`; None if none was judged.
        missed: why the others did not meet all; None if none was judged.
        requests_per_s: `met`, over the whole period.
    """

    met: int
    judged: int
    share: float | None
    missed: Missed | None
    requests_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseMeans:
    """Mean seconds of each phase of completed requests; they add up to the end-to-end time."""

    queue_s: float
    prefill_s: float
    decode_s: float
    stalled_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The figures of requests that ended in a period.

    Attributes:
        failed: by a fault of the service.
        mistaken: failed by a mistake of their client (a 4xx).
        success_rate: completed as a share of completed, failed and expired; cancelled and mistaken ones are excluded.
        abandoned: cancelled requests that nobody read any more.
        causes: reasons of failure, most frequent first; mistakes: those of mistaken requests.
        retried: requests that a worker took more than once.
        wasted_tokens: generated for nobody.
        reasoning_tokens, tool_calls, images: of completed requests.
        requests_per_s, input_tokens_per_s, output_tokens_per_s: over the whole period.
        ttft, tpot, e2e: of completed requests; queue: of all.
        goodput: None without objectives.
    """

    requests: int
    completed: int
    failed: int
    mistaken: int
    cancelled: int
    abandoned: int
    expired: int
    success_rate: float | None
    causes: tuple[Cause, ...]
    mistakes: tuple[Cause, ...]
    retried: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    wasted_tokens: int
    reasoning_tokens: int
    tool_calls: int
    images: int
    requests_per_s: float
    input_tokens_per_s: float
    output_tokens_per_s: float
    ttft: Latency | None
    tpot: Latency | None
    e2e: Latency | None
    queue: Latency | None
    phases: PhaseMeans | None
    goodput: Goodput | None


def figures_of(rollup: Rollup, *, seconds: float, objectives: Objectives) -> Figures:
    """Compute the figures of a period of this many seconds."""
    return Figures(
        requests=rollup.requests,
        completed=rollup.completed,
        failed=rollup.by_status[Status.FAILED] - rollup.mistakes.total(),
        mistaken=rollup.mistakes.total(),
        cancelled=rollup.by_status[Status.CANCELLED],
        abandoned=rollup.abandoned,
        expired=rollup.by_status[Status.EXPIRED],
        success_rate=rollup.completed / rollup.judged if rollup.judged else None,
        causes=_causes(rollup.causes, rollup.judged),
        mistakes=_causes(rollup.mistakes, rollup.requests),
        retried=rollup.retried,
        input_tokens=rollup.sums["input_tokens"],
        output_tokens=rollup.sums["output_tokens"],
        cached_tokens=rollup.sums["cached_tokens"],
        wasted_tokens=rollup.sums["wasted_tokens"],
        reasoning_tokens=rollup.sums["reasoning_tokens"],
        tool_calls=rollup.sums["tool_calls"],
        images=rollup.sums["images"],
        requests_per_s=rollup.requests / seconds,
        input_tokens_per_s=rollup.sums["input_tokens"] / seconds,
        output_tokens_per_s=rollup.sums["output_tokens"] / seconds,
        ttft=latency_of(rollup.ttft),
        tpot=latency_of(rollup.tpot),
        e2e=latency_of(rollup.e2e),
        queue=latency_of(rollup.queue),
        phases=_phases_of(rollup),
        goodput=_goodput_of(rollup, seconds, objectives) if objectives else None,
    )


def _causes(causes: Counter[str], of: int) -> tuple[Cause, ...]:
    most = sorted(causes.items(), key=lambda one: (-one[1], one[0]))
    return tuple(Cause(cause=cause, requests=count, share=count / of) for cause, count in most)


def latency_of(sketch: Sketch) -> Latency | None:
    """Compute latencies; None if nothing was measured."""
    if not sketch.count:
        return None
    p50_s, p90_s, p99_s = (sketch.quantile(share) or 0.0 for share in (0.5, 0.9, 0.99))
    return Latency(
        count=sketch.count,
        mean_s=sketch.sum_us / 1e6 / sketch.count,
        p50_s=p50_s,
        p90_s=p90_s,
        p99_s=p99_s,
        max_s=sketch.max_s,
    )


def _phases_of(rollup: Rollup) -> PhaseMeans | None:
    if not rollup.completed:
        return None
    queue_s, prefill_s, decode_s, stalled_s = (
        rollup.phases_us[phase] / 1e6 / rollup.completed for phase in PHASES
    )
    return PhaseMeans(queue_s=queue_s, prefill_s=prefill_s, decode_s=decode_s, stalled_s=stalled_s)


def _goodput_of(rollup: Rollup, seconds: float, objectives: Objectives) -> Goodput:
    judged = rollup.judged_tokens if objectives.needs_tokens else rollup.judged
    found = objectives.judge(rollup.cells)

    def missed(count: int, objective_s: float | None) -> float | None:
        return None if objective_s is None else count / judged

    return Goodput(
        met=found.met,
        judged=judged,
        share=found.met / judged if judged else None,
        missed=Missed(
            ttft=missed(found.missed_ttft, objectives.ttft_s),
            tpot=missed(found.missed_tpot, objectives.tpot_s),
            e2e=missed(found.missed_e2e, objectives.e2e_s),
            not_completed=(judged - found.completed) / judged,
        )
        if judged
        else None,
        requests_per_s=found.met / seconds,
    )
