"""From an accepted request to its document in a database that speaks MongoDB's protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from relais_common.insights.mongo import MongoSettings, open_database
from relais_common.jobs.job import Operation
from relais_common.jobs.traces import COLLECTION
from relais_common.queue import keys
from relais_orchestrator.tracing.mongo_sink import MongoTraceSink
from relais_orchestrator.tracing.sink import Outcome, SinkUnavailable
from relais_testing.builders import MODEL
from relais_testing.embedding_worker import open_embedding_worker
from relais_testing.encoders import WatchedClassifier, WatchedEncoder, WatchedReranker
from relais_testing.kept import Kept, open_kept
from relais_testing.mongo import MongoServer
from relais_testing.scrape import scrape
from relais_testing.stack import Front, Stack, answer_to, chat_request
from relais_testing.traces import make_trace
from relais_testing.waiting import wait_until


@pytest.fixture
async def kept(mongo_server: MongoServer) -> AsyncIterator[Kept]:
    async with open_kept(mongo_server.url) as kept:
        yield kept


async def traced_front(stack: Stack, kept: Kept, **more: str) -> Front:
    return await stack.front(**{**kept.settings, **more})


async def nothing_waits(stack: Stack) -> bool:
    return (await stack.store.inspector.queue(MODEL, top_keys=0)).waiting_traces == 0


async def test_document_of_a_completed_chat(stack: Stack, kept: Kept) -> None:
    front = await traced_front(stack, kept)
    await stack.worker()
    before = datetime.now(UTC) - timedelta(seconds=1)
    channel_id = await front.submit(chat_request("hello", params={"max_tokens": 20}))
    found = await kept.document(channel_id)
    state = await front.state(channel_id)
    assert found["_id"] == channel_id
    assert (found["key_id"], found["model"], found["priority"]) == ("anonymous", MODEL, "normal")
    assert (found["operation"], found["status"]) == (Operation.CHAT, "completed")
    assert found["finish_reason"] == state["result"]["finish_reason"]
    assert found["output_tokens"] == state["result"]["usage"]["output_tokens"] == 20
    assert found["input_tokens"] == state["result"]["usage"]["input_tokens"]
    assert (found["takes"], found["failures"], found["wasted_tokens"]) == (1, 0, 0)
    assert before < found["accepted_at"] <= found["first_token_at"] <= found["finished_at"]
    assert found["finished_at"] <= found["recorded_at"] + timedelta(milliseconds=2)
    phases = sum(found[name] for name in ("queue_s", "prefill_s", "decode_s", "stalled_s"))
    assert found["e2e_s"] == pytest.approx(phases)
    assert 0 < found["ttft_s"] <= found["e2e_s"]
    assert "content" not in found
    assert "error_type" not in found


async def test_content_is_kept_where_it_was_asked_for(stack: Stack, kept: Kept) -> None:
    front = await traced_front(stack, kept, TRACE_CONTENT="full")
    await stack.worker()
    channel_id = await front.submit(chat_request("hello", params={"max_tokens": 20}))
    found = await kept.document(channel_id)
    assert found["content"] == {
        "messages": [{"role": "user", "content": "hello"}],
        "answer": answer_to("hello", 20),
    }


async def test_what_no_worker_touched_is_there_too(stack: Stack, kept: Kept) -> None:
    front = await traced_front(stack, kept)
    channel_id = await front.submit(chat_request())
    async with front.delete(f"/v1/channels/{channel_id}") as response:
        assert response.status == 200
    found = await kept.document(channel_id)
    assert (found["status"], found["takes"], found["output_tokens"]) == ("cancelled", 0, 0)
    assert "first_token_at" not in found
    assert found["e2e_s"] == pytest.approx(found["queue_s"])


async def test_several_orchestrators_share_the_work(stack: Stack, kept: Kept) -> None:
    fronts = [await traced_front(stack, kept) for _ in range(2)]
    await stack.worker(max_num_seqs=16)
    bodies = [chat_request(f"request {number}", params={"max_tokens": 3}) for number in range(60)]
    ids = await asyncio.gather(
        *(fronts[number % 2].submit(body) for number, body in enumerate(bodies))
    )

    async def all_there() -> bool:
        return await kept.count() == 60

    await wait_until(all_there)
    assert await kept.ids() == sorted(ids)
    await wait_until(lambda: nothing_waits(stack))

    async def all_are_counted() -> bool:
        shown = [await scrape(front.session, front.url) for front in fronts]
        assert sum(one.of("relais_trace_write_errors_total") for one in shown) == 0
        written = [one.of("relais_traces_written_total", model_name=MODEL) for one in shown]
        return sum(written) == 60

    await wait_until(all_are_counted)


async def test_without_a_database_no_traces_pile_up(stack: Stack) -> None:
    front = await stack.front()
    await stack.worker()
    channel_id = await front.submit(chat_request())
    await wait_until(lambda: front.is_terminal(channel_id))
    assert await nothing_waits(stack)
    assert await stack.store.redis.exists(keys.traces(MODEL)) == 0


async def test_what_waits_is_written_before_an_orchestrator_ends(stack: Stack, kept: Kept) -> None:
    front = await traced_front(stack, kept, TRACE_WRITE_EVERY_S="60")
    channel_id = await front.submit(chat_request())
    async with front.delete(f"/v1/channels/{channel_id}"):
        pass
    await stack.close_front(front)
    assert await kept.ids() == [channel_id]
    assert await nothing_waits(stack)


async def test_indexes_are_made_and_the_retention_is_what_the_settings_say_now(
    stack: Stack, kept: Kept
) -> None:
    for days in (30, 7):
        front = await traced_front(stack, kept, TRACE_RETENTION_DAYS=str(days))
        channel_id = await front.submit(chat_request())
        async with front.delete(f"/v1/channels/{channel_id}"):
            pass
        await kept.document(channel_id)
        indexes = (await kept.database[COLLECTION].index_information()).values()
        ages = {one["key"][0][0]: one.get("expireAfterSeconds") for one in indexes}
        assert ages == {
            "_id": None,
            "recorded_at": None,
            "key_id": None,
            "finished_at": days * 24 * 3600,
        }
        await stack.close_front(front)


async def test_where_the_database_is_away_requests_go_on_until_the_bound_and_again_after_it(
    stack: Stack, tmp_path: Path
) -> None:
    with MongoServer(tmp_path) as server:
        url = server.url
        server.kill()
        async with open_kept(url, MAX_WAITING_TRACES="3", MONGODB_TIMEOUT_S="0.5") as kept:
            front = await traced_front(stack, kept)
            await stack.worker()
            ids = [await front.submit(chat_request(f"{number}")) for number in range(3)]
            await wait_until(lambda: all_wait(stack, 3))
            async with front.post("/v1/requests", chat_request()) as response:
                assert response.status == 503
                assert response.headers["Retry-After"]
                assert (await response.json())["error"]["code"] == "traces_full"
            async with front.get("/readyz") as response:
                assert response.status == 200, "what runs is served, and looked at"
            shown = await scrape(front.session, front.url)
            assert shown.of("relais_traces_waiting", model_name=MODEL) == 3
            assert shown.of("relais_oldest_trace_waiting_seconds", model_name=MODEL) > 0
            assert shown.of("relais_admission_rejections_total", error_type="traces_full") == 1

            await wait_until(lambda: has_failed_to_write(front))
            server.start()
            await wait_until(lambda: nothing_waits(stack))
            assert await kept.ids() == sorted(ids)
            await front.submit(chat_request())


async def all_wait(stack: Stack, number: int) -> bool:
    view = await stack.store.inspector.queue(MODEL, top_keys=0)
    return view.waiting_traces == number


async def has_failed_to_write(front: Front) -> bool:
    shown = await scrape(front.session, front.url)
    return shown.of("relais_trace_write_errors_total", store="mongodb") > 0


# The sink


async def test_a_trace_that_comes_again_changes_nothing(kept: Kept) -> None:
    sink = MongoTraceSink(kept.database, retention_days=9)
    assert await sink.write([make_trace(1)]) == Outcome()
    (first,) = await kept.documents()
    assert await sink.write([make_trace(1, output_tokens=99), make_trace(2)]) == Outcome()
    again = next(one for one in await kept.documents() if one["_id"] == first["_id"])
    assert again == first
    assert await kept.count() == 2


async def test_what_can_never_be_written_is_refused_and_the_others_are_written(kept: Kept) -> None:
    sink = MongoTraceSink(kept.database, retention_days=9)
    traces = [
        make_trace(1),
        replace(make_trace(2), content={"prompt": [1 << 70]}),  # no number of BSON's
        replace(make_trace(3), finished_at_s=1e20),  # no date
        replace(make_trace(4), content={"prompt": "a" * (17 << 20)}),  # the server's bound
        make_trace(5),
    ]
    outcome = await sink.write(traces)
    assert outcome.refused.keys() == {1, 2, 3}
    assert outcome.postponed == {}
    assert await kept.ids() == ["m.1", "m.5"]


async def test_what_the_server_says_of_no_single_document_is_tried_again(kept: Kept) -> None:
    """A key of somebody's own making, say."""
    sink = MongoTraceSink(kept.database, retention_days=9)
    await kept.database[COLLECTION].create_index("takes", unique=True)
    await sink.write([make_trace(1, takes=1)])
    outcome = await sink.write([make_trace(2, takes=1), make_trace(3, takes=2)])
    assert outcome.postponed.keys() == {0}
    assert outcome.refused == {}
    assert await kept.ids() == ["m.1", "m.3"]


async def test_a_server_that_is_away_is_told_as_such(tmp_path: Path) -> None:
    with MongoServer(tmp_path) as server:
        url = server.url
    settings = MongoSettings(url=url, database="test", timeout_s=0.2)
    async with open_database(settings) as database:
        with pytest.raises(SinkUnavailable):
            await MongoTraceSink(database, retention_days=9).write([make_trace()])


@pytest.mark.parametrize(
    ("operation", "setting", "encoder", "asked"),
    [
        ("rerank", "RERANK_MODELS", WatchedReranker, {"query": "a", "documents": ["b", "c"]}),
        ("classify", "CLASSIFY_MODELS", WatchedClassifier, {"input": ["a", "b"]}),
    ],
)
async def test_reranking_and_classifying_are_operations_of_their_own_in_traces_and_metrics(
    stack: Stack,
    kept: Kept,
    redis_url: str,
    operation: str,
    setting: str,
    encoder: type[WatchedEncoder],
    asked: dict[str, Any],
) -> None:
    front = await traced_front(stack, kept, **{setting: "judge"})
    async with (
        open_embedding_worker(redis_url, model="judge", encoder=encoder()),
        front.post(f"/v1/{operation}", {"model": "judge", **asked}) as response,
    ):
        answer = await response.json()
    found = await kept.document(answer["id"].removeprefix(f"{operation}-"))
    assert (found["operation"], found["status"]) == (operation, "completed")
    assert found["input_tokens"] == answer["usage"]["prompt_tokens"]
    seen = await scrape(front.session, front.url)
    assert seen.of("relais_requests_accepted_total", operation=operation) == 1
