"""From an accepted request to its document in a database that speaks MongoDB's protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from relais_common.jobs import Operation
from relais_common.mongo import Database, MongoSettings, open_database
from relais_common.traces import COLLECTION
from relais_common.wire import keys
from support.builders import MODEL
from support.mongo import MongoServer
from support.scrape import scrape
from support.stack import Front, Stack, answer_to, chat_request
from support.waiting import wait_until


@pytest.fixture(scope="module")
def mongo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoServer]:
    with MongoServer(tmp_path_factory.mktemp("mongo")) as server:
        yield server


class Kept:
    """What a database has."""

    def __init__(self, database: Database, settings: dict[str, str]) -> None:
        self.database = database
        self.settings = settings

    async def documents(self) -> list[dict[str, Any]]:
        return await self.database[COLLECTION].find({}).to_list(None)

    async def document(self, channel_id: str) -> dict[str, Any]:
        async def there() -> dict[str, Any] | None:
            found: dict[str, Any] | None = await self.database[COLLECTION].find_one(
                {"_id": channel_id}
            )
            return found

        return await wait_until(there) or {}


@asynccontextmanager
async def open_kept(url: str, name: str, **settings: str) -> AsyncIterator[Kept]:
    async with open_database(MongoSettings(url=url, database=name)) as database:
        yield Kept(
            database,
            {
                "MONGODB_URL": url,
                "MONGODB_DATABASE": name,
                "MONGODB_TIMEOUT_S": "2",
                "TRACE_WRITE_EVERY_S": "0.05",
                **settings,
            },
        )


@pytest.fixture
async def kept(mongo_server: MongoServer, request: pytest.FixtureRequest) -> AsyncIterator[Kept]:
    name = f"test-{abs(hash(request.node.name))}"
    async with open_kept(mongo_server.url, name) as kept:
        yield kept


async def traced_front(stack: Stack, kept: Kept, **more: str) -> Front:
    return await stack.front(**{**kept.settings, **more})


async def nothing_waits(stack: Stack) -> bool:
    return (await stack.store.operations.queue(MODEL, top_keys=0)).waiting_traces == 0


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
        return await kept.database[COLLECTION].count_documents({}) == 60

    await wait_until(all_there)
    assert {one["_id"] for one in await kept.documents()} == set(ids)
    await wait_until(lambda: nothing_waits(stack))
    shown = [await scrape(front.session, front.url) for front in fronts]
    assert sum(one.of("relais_traces_written_total", model_name=MODEL) for one in shown) == 60
    assert sum(one.of("relais_trace_write_errors_total") for one in shown) == 0


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
    assert [one["_id"] for one in await kept.documents()] == [channel_id]
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
