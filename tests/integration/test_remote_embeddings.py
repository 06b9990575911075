"""Models of `EMBEDDING_TABLE` and its like on a queue, at servers that are right, busy, lost or wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest

from relais_common.jobs.events import Cancelled, Completed, Failed
from relais_common.jobs.job import InputType, Job, StopReason
from relais_common.queue.redis_store import RedisStore
from relais_embedding_worker.remote.answers import MAX_LABELS_SIZE
from relais_testing.builders import MODEL
from relais_testing.embedding_jobs import (
    accept,
    answer,
    classes_for,
    ended,
    job_for,
    pairs_for,
)
from relais_testing.embedding_worker import open_remote_embedding_worker
from relais_testing.fake_openai import (
    FakeServer,
    classes_of,
    open_fake_server,
    score_of,
    vector_of,
)
from relais_testing.waiting import wait_until


@asynccontextmanager
async def worker(
    redis_url: str, *servers: FakeServer, table: str = "EMBEDDING_TABLE", **environ: str
) -> AsyncIterator[None]:
    entries = repr([(MODEL, server.url) for server in servers])
    async with open_remote_embedding_worker(redis_url, **{table: entries}, **environ):
        yield


async def failed(store: RedisStore, job: Job) -> Failed:
    end = await ended(store, job)
    assert isinstance(end, Failed), end
    return end


async def test_vectors_are_the_servers_in_requests_that_it_takes(
    redis_store: RedisStore, redis_url: str
) -> None:
    texts = [f"text {number}" for number in range(100)]
    job = job_for(*texts, (5, 6, 7))
    async with (
        open_fake_server(most_inputs=32, api_key="k") as server,
        worker(redis_url, server, EMBEDDING_TABLE_API_KEY="k"),
    ):
        await accept(redis_store, job)
        rows = await answer(redis_store, job)
    expected = [*map(vector_of, texts), vector_of([5, 6, 7])]
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    end = await ended(redis_store, job)
    assert isinstance(end, Completed)
    assert end.usage.input_tokens == 101
    assert sorted(len(body["input"]) for _, body in server.asked) == [5, 32, 32, 32]
    assert all(headers["Authorization"] == "Bearer k" for headers in server.headers)


async def test_long_texts_are_asked_for_in_smaller_requests(
    redis_store: RedisStore, redis_url: str
) -> None:
    job = job_for(*["x" * 100_000] * 6)
    async with open_fake_server() as server, worker(redis_url, server):
        await accept(redis_store, job)
        assert (await answer(redis_store, job)).shape == (6, 8)
    assert [len(body["input"]) for _, body in server.asked] == [2, 2, 2]


@pytest.mark.parametrize("options", [{"in_numbers": True}, {"usage": False}, {"vllm": True}])
async def test_servers_of_any_kind(
    redis_store: RedisStore, redis_url: str, options: dict[str, Any]
) -> None:
    job = job_for("a", "b")
    async with open_fake_server(model=MODEL, **options) as server, worker(redis_url, server):
        await accept(redis_store, job)
        np.testing.assert_allclose(
            await answer(redis_store, job), [vector_of("a"), vector_of("b")], atol=1e-6
        )
        end = await ended(redis_store, job)
    assert isinstance(end, Completed)
    assert end.usage.input_tokens == (None if "usage" in options else 2)


async def test_prompts_go_before_texts_of_their_kind(
    redis_store: RedisStore, redis_url: str
) -> None:
    kinds: list[InputType | None] = [InputType.QUERY, InputType.PASSAGE, None]
    jobs = [job_for("a", (1,), input_type=kind) for kind in kinds]
    ranked = job_for("a", queries=("q",), input_type=InputType.PASSAGE)
    async with open_fake_server() as server:
        entry = {"model": MODEL, "url": server.url, "query_prompt": "q: ", "passage_prompt": "p: "}
        async with open_remote_embedding_worker(redis_url, EMBEDDING_TABLE=repr([entry])):
            for job in jobs:
                await accept(redis_store, job)
                await answer(redis_store, job)
            await accept(redis_store, ranked)
            last = await answer(redis_store, ranked)
    sent = [body["input"] for _, body in server.asked]
    assert sent == [["q: a", [1]], ["p: a", [1]], ["a", [1]], ["q: q", "p: a"]]
    query, passage = np.array(vector_of("q: q")), np.array(vector_of("p: a"))
    cosine = query @ passage / np.linalg.norm(query) / np.linalg.norm(passage)
    assert last[0, 0] == pytest.approx(cosine, abs=1e-5)


async def test_dimensions_are_the_servers_or_cut_here_if_declared(
    redis_store: RedisStore, redis_url: str
) -> None:
    asked, cut = job_for("a", dimensions=4), job_for("a", dimensions=3)
    async with open_fake_server() as server, worker(redis_url, server, EMBEDDING_DIMENSIONS="3"):
        await accept(redis_store, asked, cut)
        np.testing.assert_allclose(await answer(redis_store, asked), [vector_of("a", 4)], atol=1e-6)
        (row,) = await answer(redis_store, cut)
    expected = np.array(vector_of("a", 3), np.float32)
    np.testing.assert_allclose(row, expected / np.linalg.norm(expected), atol=1e-6)
    assert sorted(body.get("dimensions", 0) for _, body in server.asked) == [0, 4]


async def test_server_that_ignores_dimensions_is_told_to_the_client(
    redis_store: RedisStore, redis_url: str
) -> None:
    def whole(body: Any) -> Any:
        return {"data": [{"index": 0, "embedding": vector_of("a")}]}

    job = job_for("a", dimensions=4)
    async with open_fake_server(twist=whole) as server, worker(redis_url, server):
        await accept(redis_store, job)
        error = (await failed(redis_store, job)).error
    assert (error.status, error.param, "gives 8" in error.message) == (400, "dimensions", True)


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({}, "/v1/rerank"),
        ({"lacks": frozenset(["/v1/rerank"])}, "/rerank"),
        ({"lacks": frozenset(["/v1/rerank"]), "bare_scores": True}, "/rerank"),
    ],
    ids=["vllm", "infinity", "tei"],
)
async def test_rerankers_of_each_form_score_documents_and_pairs(
    redis_store: RedisStore, redis_url: str, options: dict[str, Any], path: str
) -> None:
    documents = [f"document {number}" for number in range(40)]
    ranked = pairs_for("query", *documents)
    assert ranked.embedding is not None
    paired = replace(
        ranked,
        channel_id=job_for("x").channel_id,
        embedding=replace(ranked.embedding, inputs=("a", "b", "c"), queries=("q", "r", "q")),
    )
    async with (
        open_fake_server(**options) as server,
        worker(redis_url, server, table="RERANK_TABLE"),
    ):
        await accept(redis_store, ranked, paired)
        rows, pairs = await answer(redis_store, ranked), await answer(redis_store, paired)
    np.testing.assert_allclose(rows[:, 0], [score_of("query", one) for one in documents], atol=1e-6)
    expected = [score_of("q", "a"), score_of("r", "b"), score_of("q", "c")]
    np.testing.assert_allclose(pairs[:, 0], expected, atol=1e-6)
    assert {asked for asked, _ in server.asked} == {path}
    assert len(server.asked) == 4


async def test_classes_are_the_servers_in_requests_that_it_takes(
    redis_store: RedisStore, redis_url: str
) -> None:
    texts = [f"text {number}" for number in range(70)]
    job = classes_for(*texts, add_special_tokens=False, truncate_prompt_tokens=-1)
    async with (
        open_fake_server(most_inputs=32) as server,
        worker(redis_url, server, table="CLASSIFY_TABLE"),
    ):
        await accept(redis_store, job)
        rows = await answer(redis_store, job)
        end = await ended(redis_store, job)
    np.testing.assert_allclose(rows, [classes_of(one) for one in texts], atol=1e-6)
    assert isinstance(end, Completed)
    assert end.vectors is not None
    assert end.usage.input_tokens == 70
    won = {*rows.argmax(axis=1)}
    assert end.vectors.labels == tuple(f"class {at}" if at in won else None for at in range(3))
    assert {path for path, _ in server.asked} == {"/classify"}
    for _, body in server.asked:
        assert (body["add_special_tokens"], body["truncate_prompt_tokens"]) == (False, -1)


async def test_server_s_model_with_one_label_is_refused(
    redis_store: RedisStore, redis_url: str
) -> None:
    job = classes_for("text")
    async with (
        open_fake_server(twist=_each(lambda one: one.update(probs=[1.0]))) as server,
        worker(redis_url, server, table="CLASSIFY_TABLE"),
    ):
        await accept(redis_store, job)
        error = (await failed(redis_store, job)).error
    assert (error.status, error.code, error.param) == (400, "wrong_operation", "model")


async def test_labels_of_all_requests_are_bounded_together(
    redis_store: RedisStore, redis_url: str
) -> None:
    columns = count()

    def long_labels(body: Any) -> Any:
        at = next(columns) % 3
        data = [{**one, "label": None} for one in body["data"]]
        return {"data": data, "labels": [*[None] * at, "x" * (MAX_LABELS_SIZE // 2)]}

    for texts, refused in (("a", False), ("abc", True)):
        job = classes_for(*texts)
        async with (
            open_fake_server(twist=long_labels) as server,
            worker(redis_url, server, table="CLASSIFY_TABLE", REMOTE_BATCH_SIZE="1"),
        ):
            await accept(redis_store, job)
            assert isinstance(await ended(redis_store, job), Failed) == refused


async def test_one_refused_request_is_tried_again_and_nobody_else_waits(
    redis_store: RedisStore, redis_url: str
) -> None:
    job, other = job_for("a"), replace(job_for("b"), key_id="other")
    later = (429, {"error": "Model is overloaded"}, {"Retry-After": "5"})
    async with open_fake_server(refuse=[later]) as server, worker(redis_url, server):
        await accept(redis_store, job)
        await wait_until(lambda: len(server.asked) == 1)
        await accept(redis_store, other)
        await answer(redis_store, other)
        assert len(server.asked) == 2
        await answer(redis_store, job)


@pytest.mark.parametrize(
    ("status", "said", "code", "seen"),
    [
        (400, {"error": {"message": "no such role", "param": "input"}}, "upstream_refused", 400),
        (422, {"error": "bad input", "error_type": "Validation"}, "upstream_refused", 422),
        (
            413,
            {"error": "`inputs` must have less than 512 tokens. Given: 600"},
            "context_length_exceeded",
            400,
        ),
        (401, {"error": {"message": "key sk-secret"}}, "upstream_misconfigured", 502),
        (404, {"error": {"message": "no model"}}, "upstream_misconfigured", 502),
        (424, {"error": "CUDA error", "error_type": "Backend"}, "engine_error", 500),
        (500, {"error": {"message": "at /usr/lib"}}, "engine_error", 500),
    ],
)
async def test_refusals_reach_the_client_as_what_they_mean(
    redis_store: RedisStore, redis_url: str, status: int, said: Any, code: str, seen: int
) -> None:
    job = job_for("a")
    async with (
        open_fake_server(refuse=[(status, said, {})] * 2) as server,
        worker(redis_url, server),
    ):
        await accept(redis_store, job)
        error = (await failed(redis_store, job)).error
    assert (error.code, error.status) == (code, seen)
    assert not any(word in error.message for word in ("secret", "/usr", "CUDA"))


def _each(change: Callable[[dict[str, Any]], None]) -> Callable[[Any], Any]:
    def twist(body: Any) -> Any:
        for one in body["data"]:
            change(one)
        return body

    return twist


@pytest.mark.parametrize(
    "twist",
    [
        lambda body: {"data": body["data"][:-1]},
        lambda body: {"data": body["data"] * 2},
        lambda body: {"data": [body["data"][0], {"index": 1, "embedding": [1.0]}]},
        _each(lambda one: one.update(embedding="AADAfwAAwH8=")),
        _each(lambda one: one.update(embedding=[float("nan")])),
        _each(lambda one: one.update(index=7)),
        lambda _: {"data": None},
        lambda _: "text",
    ],
    ids=["fewer", "more", "lengths", "nan", "nan_number", "index", "none", "text"],
)
async def test_wrong_vectors_are_never_an_answer(
    redis_store: RedisStore, redis_url: str, twist: Callable[[Any], Any]
) -> None:
    job, next_one = job_for("a", "b"), job_for("c")
    async with open_fake_server(twist=twist) as server, worker(redis_url, server):
        await accept(redis_store, job)
        error = (await failed(redis_store, job)).error
        assert (error.code, len(server.asked)) == ("engine_error", 3)
        server.twist = None
        await accept(redis_store, next_one)
        await answer(redis_store, next_one)


async def test_servers_that_disagree_on_the_length_are_an_error(
    redis_store: RedisStore, redis_url: str
) -> None:
    def shorter(body: Any) -> Any:
        return {"data": [{**one, "embedding": vector_of("x", 4)} for one in body["data"]]}

    both = asyncio.Event()
    job = job_for(*"abcd")
    async with (
        open_fake_server(hold=both) as one,
        open_fake_server(twist=shorter, hold=both) as two,
        worker(redis_url, one, two, REMOTE_BATCH_SIZE="1"),
    ):
        await accept(redis_store, job)
        await wait_until(lambda: one.open and two.open)
        both.set()
        assert (await failed(redis_store, job)).error.code == "engine_error"


async def test_lost_server_s_requests_go_to_another(
    redis_store: RedisStore, redis_url: str
) -> None:
    job = job_for(*[f"text {number}" for number in range(8)])
    async with (
        open_fake_server(hold=asyncio.Event()) as lost,
        open_fake_server() as other,
        worker(redis_url, lost, other, REMOTE_BATCH_SIZE="2"),
    ):
        await accept(redis_store, job)
        await wait_until(lambda: lost.open)
        await lost.stop()
        rows = await answer(redis_store, job)
    assert len(other.asked) == 4
    np.testing.assert_allclose(
        rows, [vector_of(f"text {number}") for number in range(8)], atol=1e-6
    )


async def test_no_server_has_more_requests_than_places(
    redis_store: RedisStore, redis_url: str
) -> None:
    held = asyncio.Event()
    jobs = [job_for(f"text {number}") for number in range(12)]
    async with (
        open_fake_server(hold=held) as server,
        worker(redis_url, server, REMOTE_MAX_CONCURRENCY="3"),
    ):
        await accept(redis_store, *jobs)
        await wait_until(lambda: server.open == 3)
        depth = await redis_store.intake.depth(MODEL)
        assert depth.waiting >= 8
        held.set()
        for job in jobs:
            await answer(redis_store, job)


async def test_cancelled_job_leaves_its_servers(redis_store: RedisStore, redis_url: str) -> None:
    job = job_for(*[f"text {number}" for number in range(100)])
    async with open_fake_server(hold=asyncio.Event()) as server, worker(redis_url, server):
        await accept(redis_store, job)
        await wait_until(lambda: server.open == 4)
        await redis_store.intake.cancel(job.channel_id, StopReason.CLIENT)
        await wait_until(lambda: server.open == 0)
        assert await ended(redis_store, job) == Cancelled(StopReason.CLIENT)


async def test_vectors_that_take_too_much_are_refused(
    redis_store: RedisStore, redis_url: str
) -> None:
    job = job_for(*["text"] * 40)
    async with (
        open_fake_server() as server,
        worker(redis_url, server, EMBEDDING_MAX_RESULT_BYTES="1024"),
    ):
        await accept(redis_store, job)
        assert (await failed(redis_store, job)).error.status == 413


@pytest.mark.parametrize(
    ("table", "job"),
    [
        ("EMBEDDING_TABLE", pairs_for("query", "document")),
        ("RERANK_TABLE", job_for("text")),
        ("RERANK_TABLE", classes_for("text")),
        ("CLASSIFY_TABLE", job_for("text")),
    ],
)
async def test_model_of_the_other_kind_is_not_asked(
    redis_store: RedisStore, redis_url: str, table: str, job: Job
) -> None:
    async with open_fake_server() as server, worker(redis_url, server, table=table):
        await accept(redis_store, job)
        error = (await failed(redis_store, job)).error
    assert (error.code, error.status, server.asked) == ("wrong_operation", 400, [])
