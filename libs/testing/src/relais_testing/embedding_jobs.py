"""Jobs for vectors and scores, and their ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from relais_common.jobs.events import Completed
from relais_common.jobs.job import (
    ChannelState,
    Embedding,
    InputType,
    Job,
    Operation,
    PromptOptions,
)
from relais_common.queue import codec
from relais_common.queue.redis_store import RedisStore
from relais_embedding_worker.encoder import Input, Vectors
from relais_testing.builders import make_job
from relais_testing.waiting import wait_until

_TEXTS = ["", "the town hall", "🦄", "word " * 20_000]
FORMS: list[tuple[Any, tuple[Input, ...]]] = [
    ("the town hall", ("the town hall",)),
    (_TEXTS, tuple(_TEXTS)),
    ([7, 8, 9], ((7, 8, 9),)),
    ([[7, 8, 9], [10]], ((7, 8, 9), (10,))),
    ("", ("",)),
]
"""Every form of a request's `input`, and the inputs that it has."""


def job_for(*inputs: Input, **fields: Any) -> Job:
    operation = Operation.SCORE if fields.get("queries") else Operation.EMBEDDINGS
    return make_job(
        operation=operation, messages=None, embedding=Embedding(inputs=inputs, **fields)
    )


async def accept(store: RedisStore, *jobs: Job) -> None:
    for job in jobs:
        await store.intake.enqueue(job, max_waiting=10_000)


async def state_of(store: RedisStore, job: Job) -> ChannelState:
    state = await store.intake.state(job.channel_id)
    assert state is not None
    return state


async def ended(store: RedisStore, job: Job) -> object:
    """Its last event."""

    async def outcome() -> bytes:
        return (await state_of(store, job)).outcome or b""

    return codec.decode_event(await wait_until(outcome))


async def answer(store: RedisStore, job: Job) -> Vectors:
    end = await ended(store, job)
    assert isinstance(end, Completed), end
    assert end.vectors is not None
    packed = await store.intake.vectors(job.channel_id)
    return np.frombuffer(packed or b"", "<f4").reshape(end.vectors.count, end.vectors.dimensions)


def classes_for(*inputs: Input, **options: Any) -> Job:
    return replace(
        job_for(*inputs), operation=Operation.CLASSIFY, prompting=PromptOptions(**options)
    )


def pairs_for(query: str, *documents: str) -> Job:
    return replace(
        job_for(*documents, queries=(query,), input_type=InputType.PASSAGE),
        operation=Operation.RERANK,
    )
