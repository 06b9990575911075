"""Jobs put straight into the queue, as an orchestrator and a worker would, many at once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

from relais_common.jobs.channels import new_channel_id
from relais_common.jobs.events import Completed, Timings, Token, Usage
from relais_common.jobs.job import Append, Job, Lease, Operation, Priority, Sampling, TakenJob
from relais_common.queue.codec import encode_event
from relais_common.queue.redis_store import RedisStore

MODEL = "grown"
LINE = encode_event(Token(" bonjour", (12_345,)))
DONE = Completed("stop", Usage(1, 1), Timings(queue_s=0, prefill_s=0, decode_s=0))
PROMPT = "Le temps d'attente à la mairie est beaucoup trop long. " * 4
KEYS = 8
LEASE_S = 3600.0
TOGETHER = 64
_calls = itertools.count()


def make_job(number: int) -> Job:
    """A request of 220 characters; keys and priorities in turns."""
    return Job(
        channel_id=new_channel_id(MODEL),
        model=MODEL,
        key_id=f"client-{number % KEYS}",
        operation=Operation.TEXT_COMPLETION,
        prompt=PROMPT,
        sampling=Sampling(max_tokens=100),
        priority=tuple(Priority)[number % 3],
        deadline_s=86_400,
        log_ttl_s=600,
        result_ttl_s=3600,
    )


async def submit(store: RedisStore, jobs: Sequence[Job]) -> None:
    """Put jobs into the queue, some at a time."""
    for begin in range(0, len(jobs), TOGETHER):
        some = jobs[begin : begin + TOGETHER]
        await asyncio.gather(
            *(
                store.intake.enqueue(job, max_waiting=10**9, max_stored_bytes=1 << 50)
                for job in some
            )
        )


async def take(store: RedisStore, count: int) -> list[TakenJob]:
    """As a worker that holds others already: it is given no suspects."""
    answer = await store.source.take(
        MODEL,
        count,
        worker_id="bench",
        call_id=str(next(_calls)),
        lease_s=LEASE_S,
        idle=False,
    )
    return list(answer.jobs)


async def grow_log(store: RedisStore, lease: Lease, tail: int, to: int) -> None:
    """Append tokens until the log has `to` events."""
    while tail < to:
        lines = (LINE,) * min(500, to - tail)
        await store.source.append([Append(lease, tail + 1, lines, True)])
        tail += len(lines)
