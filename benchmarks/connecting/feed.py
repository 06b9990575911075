"""The worker's side, through the ports: takes every job, and adds tokens that say when they were added."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from relais_common.jobs.channels import new_channel_id
from relais_common.jobs.chat import Message
from relais_common.jobs.events import Completed, Timings, Token, Usage
from relais_common.jobs.job import Append, Job, Lease, Operation
from relais_common.queue.codec import encode_event
from relais_common.queue.ports import TakeRequest
from relais_common.queue.redis_store import RedisStore
from relais_common.runtime.lifecycle import cancel_and_wait
from relais_testing.process_stack import MODEL

STAMP = re.compile(rb"at(\d{19});")
LEASE_S = 3600.0
TOGETHER = 64
TICK_S = 0.02

_T = TypeVar("_T")


def _stamped(padding: str = "") -> bytes:
    return encode_event(Token(f"at{time.time_ns()};{padding}", (1,)))


def _parts(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    return (items[begin : begin + size] for begin in range(0, len(items), size))


class Feed:
    """A worker that holds any number of jobs, and whose every token is asked for.

    Attributes:
        leases: of the jobs in its hands, in the order they were taken.
    """

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._next_seq: dict[str, int] = {}
        self.leases: list[Lease] = []
        self.appended = 0

    async def submit(self, key_ids: Sequence[str]) -> list[str]:
        """Put a job per key into the queue; their channels."""
        jobs = [
            Job(
                channel_id=new_channel_id(MODEL),
                model=MODEL,
                key_id=key_id,
                operation=Operation.CHAT,
                messages=(Message("user", "connect"),),
                deadline_s=LEASE_S,
                log_ttl_s=600,
                result_ttl_s=600,
            )
            for key_id in key_ids
        ]
        for some in _parts(jobs, TOGETHER):
            await asyncio.gather(
                *(self._store.intake.enqueue(job, max_waiting=1_000_000) for job in some)
            )
        return [job.channel_id for job in jobs]

    async def take(self) -> int:
        """Take and start what waits; how many jobs."""
        taken = await self._store.source.take(
            TakeRequest(
                MODEL,
                TOGETHER,
                worker_id="feed",
                call_id=str(time.time_ns()),
                lease_s=LEASE_S,
                idle=not self.leases,
            )
        )
        verdicts = await asyncio.gather(
            *(
                self._store.source.start(job.lease, prompts=((1,),), model_revision="feed")
                for job in taken.jobs
            )
        )
        for job, verdict in zip(taken.jobs, verdicts, strict=True):
            self._next_seq[job.lease.channel_id] = verdict.tail + 1
            self.leases.append(job.lease)
        return len(taken.jobs)

    @asynccontextmanager
    async def taking(self) -> AsyncIterator[None]:
        """Take whatever comes, for as long as the context lasts."""

        async def loop() -> None:
            while True:
                if not await self.take():
                    await asyncio.sleep(TICK_S)

        task = asyncio.create_task(loop())
        try:
            yield
        finally:
            with suppress(asyncio.CancelledError):
                await cancel_and_wait(task)

    async def add(self, leases: Iterable[Lease], *, count: int = 1, padding: str = "") -> None:
        """Append `count` tokens to each of these channels, in one call."""
        appends = []
        for lease in leases:
            first = self._next_seq[lease.channel_id]
            self._next_seq[lease.channel_id] = first + count
            appends.append(Append(lease, first, tuple(_stamped(padding) for _ in range(count))))
        verdicts = await self._store.source.append(appends)
        assert all(verdict.held for verdict in verdicts), "the feed lost a job"
        self.appended += count * len(appends)

    async def add_in_turn(self, leases: Sequence[Lease], *, every_s: float, for_s: float) -> int:
        """Give each of these channels a token every `every_s`, evenly spread; how many in all."""
        began_s, given = time.monotonic(), 0
        rate = len(leases) / every_s
        while (elapsed_s := time.monotonic() - began_s) < for_s:
            due = int(elapsed_s * rate) - given
            for some in _parts([leases[(given + i) % len(leases)] for i in range(due)], TOGETHER):
                await self.add(some)
            given += due
            await asyncio.sleep(TICK_S)
        return given

    async def end(self, lease: Lease) -> None:
        """Complete a job."""
        await self._store.source.finish(
            lease,
            first_seq=self._next_seq[lease.channel_id],
            terminal=Completed("stop", Usage(1, 1), Timings(queue_s=0, prefill_s=0, decode_s=0)),
            text="",
        )
