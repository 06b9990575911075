"""Simulates traces: daily and weekly cycles, heavy tails, crowded hours, failures, one bad hour."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from random import Random

from relais_common.insights.rollups import HOUR, hour_of
from relais_common.jobs.channels import model_tag
from relais_common.jobs.job import Operation, Status, StopReason
from relais_common.jobs.traces import Phases, Trace
from relais_kpi.simulation.profiles import (
    BY_HOUR,
    BY_WEEKDAY,
    CLIENTS,
    MODELS,
    NIGHT_HOURS,
    Client,
    ModelProfile,
)

_TAIL = 0.85
"""Standard deviation of the logarithm of a length."""

_DEADLINE_S = 300.0
_FAILURES = {"engine_error": 5, "worker_lost": 3, "not_resumable": 2, "invalid_value": 4}
_MISTAKE = "invalid_value"


@dataclass(frozen=True, slots=True)
class _Hour:
    """One hour of traffic; `crowd` is the utilisation, from 0 to about 1."""

    start_s: float
    requests: int
    clients: list[float]
    crowd: float
    bad: bool


def simulate(*, traces: int, days: float, seed: int, until: datetime) -> Iterator[Trace]:
    """Yield this many traces of requests accepted in the days up to `until`, hour by hour; deterministic by seed."""
    random = Random(seed)
    number = 0
    for hour in _hours(traces, days, until, random):
        for _ in range(hour.requests):
            yield _trace(random, hour, seed, number)
            number += 1


def _hours(traces: int, days: float, until: datetime, random: Random) -> Iterator[_Hour]:
    count = max(1, round(days * 24))
    first = hour_of(until) - count * HOUR
    starts = [first + index * HOUR for index in range(count)]
    weights = [[_weight(client, start) for client in CLIENTS] for start in starts]
    loads = [sum(one) * random.lognormvariate(0, 0.08) for one in weights]
    most, whole = max(loads), sum(loads)
    bad = starts[random.randrange(count)]
    given = 0
    for start, clients, load, up_to in zip(starts, weights, loads, accumulate(loads), strict=True):
        # Rounded sums, so that all hours together have exactly the requested number.
        until_here = traces if start == starts[-1] else round(traces * up_to / whole)
        yield _Hour(start.timestamp(), until_here - given, clients, load / most, start == bad)
        given = until_here


def _weight(client: Client, start: datetime) -> float:
    if client.nightly:
        return client.weight if start.hour in NIGHT_HOURS else 0.0
    return client.weight * BY_HOUR[start.hour] * BY_WEEKDAY[start.weekday()]


def _trace(random: Random, hour: _Hour, seed: int, number: int) -> Trace:
    client = random.choices(CLIENTS, hour.clients)[0]
    model = MODELS[random.choices(client.models, [MODELS[one].weight for one in client.models])[0]]
    accepted_at_s = round(hour.start_s + random.random() * HOUR.total_seconds(), 6)
    prompt = max(1, round(random.lognormvariate(math.log(model.prompt_tokens), _TAIL)))
    status, error_type = _ending(random, client, hour)
    phases, answer, stalled = _course(random, model, hour, prompt, status)
    cached = round(prompt * random.random() * 0.6) if random.random() < 0.35 else 0
    first_token_s = (
        phases.queue_s + phases.prefill_s
        if answer and model.operation is not Operation.EMBEDDINGS
        else None
    )
    return Trace(
        channel_id=f"{model_tag(model.name)}.sim-{seed}-{number:08}",
        key_id=client.key_id,
        model=model.name,
        model_revision="simulated",
        operation=model.operation,
        priority=client.priority,
        status=status,
        error_type=error_type,
        error_status=None if error_type is None else 400 if error_type == _MISTAKE else 500,
        finish_reason=None if status is not Status.COMPLETED else "stop",
        cancel_reason=_cancel_reason(status, number),
        takes=0 if status is Status.EXPIRED else 1 + stalled,
        failures=int(stalled and error_type == "worker_lost"),
        input_tokens=prompt,
        output_tokens=answer,
        cached_tokens=cached,
        wasted_tokens=0 if status is Status.COMPLETED else answer,
        accepted_at_s=accepted_at_s,
        first_token_at_s=None if first_token_s is None else accepted_at_s + first_token_s,
        finished_at_s=accepted_at_s + phases.total_s,
        phases=phases,
    )


def _cancel_reason(status: Status, number: int) -> str | None:
    """Choose a cancel reason. Most clients that give up simply disconnect."""
    if status is not Status.CANCELLED:
        return None
    return (StopReason.DISCONNECT if number % 4 else StopReason.CLIENT).value


def _ending(random: Random, client: Client, hour: _Hour) -> tuple[Status, str | None]:
    chance = random.random()
    if chance < client.impatience * (0.5 + hour.crowd):
        return Status.CANCELLED, None
    if random.random() < (0.12 if hour.bad else 0.006):
        return Status.FAILED, random.choices([*_FAILURES], [*_FAILURES.values()])[0]
    if random.random() < 0.004 * hour.crowd**6:
        return Status.EXPIRED, None
    return Status.COMPLETED, None


def _course(
    random: Random, model: ModelProfile, hour: _Hour, prompt: int, status: Status
) -> tuple[Phases, int, bool]:
    """Return the phases, the generated tokens, and whether the worker was lost."""
    if status is Status.EXPIRED:
        return Phases(queue_s=_DEADLINE_S, prefill_s=0, decode_s=0, stalled_s=0), 0, False
    # Like real queues: short until nearly everything is in use, then long.
    queue_s = random.expovariate(1 / (0.02 + 0.9 * hour.crowd**5)) * (4 if hour.bad else 1)
    prefill_s = (0.02 + prompt / model.prefill_tokens_per_s) * random.lognormvariate(0, 0.25)
    if not model.answer_tokens:
        return Phases(queue_s=queue_s, prefill_s=prefill_s, decode_s=0, stalled_s=0), 0, False
    answer = min(8192, max(1, round(random.lognormvariate(math.log(model.answer_tokens), _TAIL))))
    if status is not Status.COMPLETED:
        answer = int(answer * random.random())
    pace = model.tpot_s * (1 + 0.7 * hour.crowd) * random.lognormvariate(0, 0.12)
    stalled = random.random() < (0.05 if hour.bad else 0.001)
    phases = Phases(
        queue_s=queue_s,
        prefill_s=prefill_s,
        decode_s=max(0, answer - 1) * pace,
        stalled_s=random.uniform(3, 9) if stalled else 0.0,
    )
    return phases, answer, stalled


def recorded_at(trace: Trace, random: Random) -> datetime:
    """Return when an orchestrator would have written the trace: soon after its end."""
    return datetime.fromtimestamp(trace.finished_at_s, UTC) + timedelta(
        seconds=random.uniform(0.05, 2.0)
    )
