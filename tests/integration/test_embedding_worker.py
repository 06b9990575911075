"""The embedding worker on a queue: right vectors, shared batches, and jobs that are cancelled, drained or refused."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from relais_common.jobs.chat import Message
from relais_common.jobs.events import Cancelled, Completed, Failed
from relais_common.jobs.job import (
    Embedding,
    InputType,
    Job,
    Operation,
    Status,
    StopReason,
)
from relais_common.queue.redis_store import RedisStore
from relais_embedding_worker import app
from relais_embedding_worker.backends.choice import Candidate
from relais_embedding_worker.encoder import Encoder, Input, Vectors
from relais_embedding_worker.settings import EncoderSettings
from relais_testing.builders import make_job
from relais_testing.embedding_jobs import accept, answer, ended, job_for, pairs_for, state_of
from relais_testing.embedding_worker import open_embedding_models, open_embedding_worker
from relais_testing.encoders import WatchedEncoder, WatchedReranker, whole
from relais_testing.waiting import wait_until

DIMENSIONS = 8


def alone(*inputs: Input, input_type: InputType | None = None) -> Vectors:
    encoder = WatchedEncoder()
    tokens = whole(encoder, inputs, input_type)
    return np.concatenate([encoder.encode([one]) for one in tokens])


async def test_each_request_has_its_own_vectors_whatever_shared_its_batches(
    redis_store: RedisStore, redis_url: str
) -> None:
    texts = [
        [f"{'word ' * (number * each % 40)}{number} {each}" for each in range(1 + number % 7)]
        for number in range(40)
    ]
    jobs = [job_for(*several) for several in texts]
    async with open_embedding_worker(redis_url):
        await accept(redis_store, *jobs)
        for job, several in zip(jobs, texts, strict=True):
            np.testing.assert_allclose(await answer(redis_store, job), alone(*several), atol=1e-6)


async def test_odd_inputs_have_vectors_too(redis_store: RedisStore, redis_url: str) -> None:
    inputs: tuple[Input, ...] = ("", "🦄 " * 3, "word " * 20_000, (7, 8, 9), "\x00")
    job = job_for(*inputs)
    async with open_embedding_worker(redis_url):
        await accept(redis_store, job)
        np.testing.assert_allclose(await answer(redis_store, job), alone(*inputs), atol=1e-6)
        end = await ended(redis_store, job)
    assert isinstance(end, Completed)
    assert end.vectors is not None
    assert end.vectors.truncated == 1
    assert end.usage.input_tokens == 1 + 4 + 64 + 4 + 2


async def test_small_request_does_not_wait_for_a_large_one(
    redis_store: RedisStore, redis_url: str
) -> None:
    large, small = job_for(*["many words here"] * 2048), job_for("few")
    async with open_embedding_worker(redis_url) as worker:
        worker.encoder.gate.clear()
        await accept(redis_store, large)
        await wait_until(lambda: worker.batches.waiting_tokens > 0)
        await accept(redis_store, small)
        before = worker.batches.waiting_tokens
        await wait_until(lambda: worker.batches.waiting_tokens > before)
        worker.encoder.gate.set()
        await answer(redis_store, small)
        assert (await answer(redis_store, large)).shape == (2048, DIMENSIONS)
        state, other = await state_of(redis_store, small), await state_of(redis_store, large)
    assert state.finished_at_s is not None
    assert other.finished_at_s is not None
    assert state.finished_at_s < other.finished_at_s


async def test_victim_does_not_wait_for_what_another_key_has_before_the_encoder(
    redis_store: RedisStore, redis_url: str
) -> None:
    """Neither for its tokens here, nor for its jobs in the queue."""
    large = [replace(job_for(*["word " * 63] * 20), key_id="attacker") for _ in range(60)]
    async with open_embedding_worker(redis_url, EMBEDDING_MAX_QUEUED_TOKENS="2000") as worker:
        worker.encoder.gate.clear()
        await accept(redis_store, *large)
        await wait_until(lambda: worker.batches.keys_with(2000) == ["attacker"])
        small = replace(job_for("few"), key_id="victim")
        await accept(redis_store, small)
        await wait_until(lambda: worker.batches.keys_with(1) == ["attacker", "victim"])
        # What is more than enough waits where other workers can take it.
        waiting = [(await state_of(redis_store, one)).status for one in large]
        assert waiting.count(Status.QUEUED) >= 20
        worker.encoder.gate.set()
        await answer(redis_store, small)
        assert [2] in worker.encoder.batches[:4]
        for one in large:
            await answer(redis_store, one)


async def test_scores_are_cosines_of_query_and_passages(
    redis_store: RedisStore, redis_url: str
) -> None:
    passages = ("the town hall opens", "cats sleep")
    ranked = job_for(*passages, queries=("town hall",), input_type=InputType.PASSAGE)
    paired = job_for(*passages, queries=("town", "cats"), input_type=InputType.PASSAGE)
    async with open_embedding_worker(redis_url):
        await accept(redis_store, ranked, paired)
        one, two = await answer(redis_store, ranked), await answer(redis_store, paired)
    rows = alone(*passages, input_type=InputType.PASSAGE)
    (query,) = alone("town hall", input_type=InputType.QUERY)
    np.testing.assert_allclose(one[:, 0], rows @ query, atol=1e-6)
    queries = alone("town", "cats", input_type=InputType.QUERY)
    np.testing.assert_allclose(two[:, 0], np.sum(rows * queries, axis=1), atol=1e-6)


async def test_fewer_dimensions_have_length_one_where_the_model_allows_them(
    redis_store: RedisStore, redis_url: str
) -> None:
    allowed, refused = job_for("text", dimensions=4), job_for("text", dimensions=5)
    async with open_embedding_worker(redis_url, EMBEDDING_DIMENSIONS="4"):
        await accept(redis_store, allowed, refused)
        ((*row,),) = (await answer(redis_store, allowed)).tolist()
        end = await ended(redis_store, refused)
    expected = alone("text")[0, :4]
    np.testing.assert_allclose(row, expected / np.linalg.norm(expected), atol=1e-6)
    assert isinstance(end, Failed)
    assert (end.error.status, end.error.param) == (400, "dimensions")


@pytest.mark.parametrize(
    ("job", "code", "status"),
    [
        (job_for(*["text"] * 200), "request_too_large", 413),
        (job_for((10**9,)), "invalid_value", 400),
        (make_job(messages=(Message("user", "hello"),)), "wrong_operation", 400),
    ],
)
async def test_what_cannot_be_embedded_is_a_typed_error(
    redis_store: RedisStore, redis_url: str, job: Job, code: str, status: int
) -> None:
    async with open_embedding_worker(redis_url, EMBEDDING_MAX_RESULT_BYTES="1024"):
        await accept(redis_store, job)
        end = await ended(redis_store, job)
    assert isinstance(end, Failed)
    assert (end.error.code, end.error.status) == (code, status)


async def test_cancelled_request_frees_what_waited_of_it(
    redis_store: RedisStore, redis_url: str
) -> None:
    large = job_for(*["many words here"] * 500)
    async with open_embedding_worker(redis_url) as worker:
        worker.encoder.gate.clear()
        await accept(redis_store, large)
        await wait_until(lambda: worker.batches.waiting_tokens > 1000)
        await redis_store.intake.cancel(large.channel_id, StopReason.CLIENT)
        await wait_until(lambda: worker.batches.waiting_tokens == 0)
        worker.encoder.gate.set()
        assert await ended(redis_store, large) == Cancelled(StopReason.CLIENT)
        assert len(worker.encoder.batches) <= 2
    assert await redis_store.intake.vectors(large.channel_id) is None


async def test_worker_takes_no_more_than_it_has_room_for(
    redis_store: RedisStore, redis_url: str
) -> None:
    jobs = [job_for("some words") for _ in range(20)]
    async with open_embedding_worker(redis_url, EMBEDDING_MAX_REQUESTS="5") as worker:
        worker.encoder.gate.clear()
        await accept(redis_store, *jobs)

        async def is_full() -> bool:
            depth = await redis_store.intake.depth(jobs[0].model)
            assert depth.running <= 5
            return (depth.waiting, depth.running) == (15, 5)

        await wait_until(is_full)
        worker.encoder.gate.set()
        await asyncio.gather(*(answer(redis_store, job) for job in jobs))


async def test_drained_worker_finishes_what_it_holds(
    redis_store: RedisStore, redis_url: str
) -> None:
    job = job_for(*["many words here"] * 200)
    async with open_embedding_worker(redis_url) as worker:
        worker.encoder.gate.clear()
        await accept(redis_store, job)
        await wait_until(lambda: worker.batches.waiting_tokens > 0)
        worker.stop.set()
        worker.encoder.gate.set()
        await worker.drain()
        assert (await state_of(redis_store, job)).status is Status.COMPLETED


async def test_what_does_not_fit_into_the_drain_goes_on_elsewhere(
    redis_store: RedisStore, redis_url: str
) -> None:
    job = job_for("text")
    async with open_embedding_worker(redis_url, DRAIN_S="0") as worker:
        worker.encoder.gate.clear()
        await accept(redis_store, job)
        await wait_until(lambda: bool(worker.encoder.batches))
        await worker.drain()
        assert (await state_of(redis_store, job)).status is Status.QUEUED
    async with open_embedding_worker(redis_url):
        np.testing.assert_allclose(await answer(redis_store, job), alone("text"), atol=1e-6)


async def test_cross_encoder_scores_each_document_by_its_own_query(
    redis_store: RedisStore, redis_url: str
) -> None:
    documents = ("cats sleep", "the town hall", "town", "")
    first, second = pairs_for("town hall", *documents), pairs_for("cats sleep", *documents)
    async with open_embedding_worker(redis_url, encoder=WatchedReranker()) as worker:
        worker.encoder.gate.clear()
        await accept(redis_store, pairs_for("x", "y"))
        await wait_until(lambda: len(worker.encoder.batches) == 1)
        await accept(redis_store, first, second)
        await wait_until(lambda: worker.batches.waiting_tokens == 2 * (6 + 7 + 5 + 4))
        worker.encoder.gate.set()
        one, two = await answer(redis_store, first), await answer(redis_store, second)
    assert one[:, 0].tolist() == [0.0, 1.0, 0.5, 0.0]
    assert two[:, 0].tolist() == [1.0, 0.0, 0.0, 0.0]
    # The pairs of both requests share a batch, by length.
    assert worker.encoder.batches[1:] == [[4, 4, 5, 5, 6, 6, 7, 7]]


async def test_pair_that_is_too_long_is_cut_and_counted(
    redis_store: RedisStore, redis_url: str
) -> None:
    job = pairs_for("town hall", "word " * 100_000, "town", "hall " * 62)
    async with open_embedding_worker(redis_url, encoder=WatchedReranker()):
        await accept(redis_store, job)
        await answer(redis_store, job)
        end = await ended(redis_store, job)
    assert isinstance(end, Completed)
    assert end.vectors is not None
    assert (end.vectors.count, end.vectors.dimensions, end.vectors.truncated) == (3, 1, 2)
    assert end.usage.input_tokens == 64 + 5 + 64


@pytest.mark.parametrize(
    ("encoder", "job"),
    [
        (WatchedEncoder(), pairs_for("query", "document")),
        (WatchedReranker(), job_for("text")),
        (WatchedReranker(), job_for("text", queries=("query",), input_type=InputType.PASSAGE)),
    ],
)
async def test_model_of_another_kind_than_was_declared_refuses_by_name(
    redis_store: RedisStore, redis_url: str, encoder: WatchedEncoder, job: Job
) -> None:
    async with open_embedding_worker(redis_url, encoder=encoder):
        await accept(redis_store, job)
        end = await ended(redis_store, job)
    assert isinstance(end, Failed)
    assert (end.error.code, end.error.status, end.error.param) == ("wrong_operation", 400, "model")


@pytest.mark.parametrize("models", ["one", "one,two"])
async def test_every_model_of_a_worker_answers_from_its_own_queue(
    redis_store: RedisStore, redis_url: str, models: str
) -> None:
    names = models.split(",")
    jobs = [
        make_job(
            model=name,
            operation=Operation.EMBEDDINGS,
            messages=None,
            embedding=Embedding(inputs=(f"the {name} hall",)),
        )
        for name in names
        for _ in range(20)
    ]
    settings = {"EMBEDDING_ENGINE": "deterministic", "EMBEDDING_MODEL": models}
    async with open_embedding_models(redis_url, **settings):
        await accept(redis_store, *jobs)
        for job in jobs:
            assert (await answer(redis_store, job)).shape == (1, 64)


async def test_model_that_cannot_be_loaded_is_not_ready_while_the_others_answer(
    redis_store: RedisStore, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_encoder = app.open_encoder

    def open_one(settings: EncoderSettings, choices: dict[str, Candidate]) -> Encoder:
        if settings.served_name == "two":
            raise RuntimeError("no such weights")
        return open_encoder(settings, choices)

    monkeypatch.setattr(app, "open_encoder", open_one)
    one, two = (
        make_job(
            model=name,
            operation=Operation.EMBEDDINGS,
            messages=None,
            embedding=Embedding(inputs=("the town hall",)),
        )
        for name in ("one", "two")
    )
    settings = {"EMBEDDING_ENGINE": "deterministic", "EMBEDDING_MODEL": "one,two"}
    async with open_embedding_models(redis_url, HEARTBEAT_S="0.1", **settings):
        await accept(redis_store, one, two)
        end = await ended(redis_store, two)
        assert isinstance(end, Failed)
        assert end.error.code == "engine_error"
        assert (await answer(redis_store, one)).shape == (1, 64)

        async def is_told() -> bool:
            reasons = {each.model: each.not_ready for each in await redis_store.registry.alive()}
            return reasons.get("one", "") is None and "two could not" in (reasons.get("two") or "")

        await wait_until(is_told)
