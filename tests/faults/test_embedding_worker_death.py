"""An embedding worker killed in mid-request, as a real process: another one answers, once, and nobody is set aside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from relais_common.jobs.events import Completed
from relais_common.jobs.job import Embedding, Job, Operation, Status
from relais_common.queue import codec
from relais_common.queue.redis_store import RedisSettings, RedisStore, open_store
from relais_embedding_worker.encoder_deterministic import DeterministicEncoder
from relais_testing.builders import make_job
from relais_testing.encoders import whole
from relais_testing.process_stack import MODEL, Starter
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import wait_until

ENCODER = {"EMBEDDING_ENGINE": "deterministic", "EMBEDDING_SERVED_NAME": MODEL}
SLOW = {**ENCODER, "DETERMINISTIC_TOKENS_PER_S": "200", "EMBEDDING_MAX_BATCH_TOKENS": "64"}


@pytest.fixture
async def store(redis: ValkeyServer) -> AsyncIterator[RedisStore]:
    async with open_store(RedisSettings(redis.url)) as store:
        yield store


def job_for(number: int) -> Job:
    return make_job(
        model=MODEL,
        operation=Operation.EMBEDDINGS,
        messages=None,
        embedding=Embedding(inputs=tuple(f"text {number} {each}" for each in range(100))),
    )


async def running(store: RedisStore, jobs: list[Job]) -> bool:
    states = await asyncio.gather(*(store.intake.state(job.channel_id) for job in jobs))
    return all(state is not None and state.started_at_s is not None for state in states)


async def test_requests_of_a_killed_worker_are_answered_by_another_one_once(
    start: Starter, store: RedisStore
) -> None:
    doomed = start("embedding_worker", **SLOW)
    jobs = [job_for(number) for number in range(4)]
    for job in jobs:
        await store.intake.enqueue(job, max_waiting=100)
    await wait_until(lambda: running(store, jobs))
    doomed.kill()
    start("embedding_worker", **ENCODER)
    encoder = DeterministicEncoder()
    for job in jobs:

        async def ended(job: Job = job) -> bool:
            state = await store.intake.state(job.channel_id)
            return state is not None and state.status is Status.COMPLETED

        await wait_until(ended)
        lines = await store.log.read(job.channel_id, after=0, limit=100)
        assert [codec.split_event(line)[0] for line in lines] == [
            b"queued",
            b"started",
            b"completed",
        ]
        end = codec.decode_event(lines[-1])
        assert isinstance(end, Completed)
        assert end.vectors is not None
        assert job.embedding is not None
        packed = await store.intake.vectors(job.channel_id)
        np.testing.assert_allclose(
            np.frombuffer(packed or b"", "<f4").reshape(100, end.vectors.dimensions),
            encoder.encode(whole(encoder, job.embedding.inputs)),
            atol=1e-6,
        )


async def test_sigterm_lets_a_worker_finish_what_it_holds(
    start: Starter, store: RedisStore
) -> None:
    worker = start("embedding_worker", **{**SLOW, "DETERMINISTIC_TOKENS_PER_S": "2000"})
    job = job_for(0)
    await store.intake.enqueue(job, max_waiting=100)
    await wait_until(lambda: running(store, [job]))
    assert await asyncio.to_thread(worker.terminate) == 0
    state = await store.intake.state(job.channel_id)
    assert state is not None
    assert state.status is Status.COMPLETED
