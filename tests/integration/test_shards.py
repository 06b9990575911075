"""A model whose requests are spread over several queues: what clients and operators see of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from itertools import chain
from pathlib import Path

import pytest

from relais_common.jobs.channels import channel_shard, queue_of
from relais_common.queue import keys, shards
from relais_orchestrator.metrics import queues
from relais_testing.batches import BatchClient, encode, lines
from relais_testing.builders import MODEL
from relais_testing.embedding_worker import open_embedding_worker
from relais_testing.kept import Kept, open_kept
from relais_testing.keys import KeyFile, bearer
from relais_testing.mongo import MongoServer
from relais_testing.scrape import scrape
from relais_testing.sse_client import read_events, text_of
from relais_testing.stack import Front, Stack, answer_to, chat_request
from relais_testing.waiting import wait_until


def spread(number: int) -> dict[str, str]:
    return {"QUEUE_SHARDS": json.dumps({MODEL: number})}


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(queues, "FRESH_S", 0.0)


@pytest.fixture
async def kept(mongo_server: MongoServer) -> AsyncIterator[Kept]:
    async with open_kept(mongo_server.url, BATCH_LEASE_S="1") as kept:
        yield kept


async def submit_all(front: Front, count: int, **fields: object) -> dict[str, str]:
    """Return the channel of each prompt."""
    prompts = [f"prompt {number}" for number in range(count)]
    return {prompt: await front.submit(chat_request(prompt, **fields)) for prompt in prompts}


async def statuses_of(front: Front, count: int, **headers: str) -> list[int]:
    async def status(number: int) -> int:
        body = chat_request(f"prompt {number}")
        async with front.post("/v1/requests", body, headers=headers) as response:
            return int(response.status)

    return [await status(number) for number in range(count)]


async def test_a_worker_that_is_there_serves_queues_that_come_later(stack: Stack) -> None:
    await stack.worker()
    channels = await submit_all(await stack.front(**spread(3)), 12)
    assert {channel_shard(one) for one in channels.values()} == {0, 1, 2}
    # Any orchestrator shows them.
    other = await stack.front()
    for prompt, channel_id in channels.items():
        events = await read_events(other.session, f"/v1/channels/{channel_id}/events")
        assert text_of(events) == answer_to(prompt)
        state = await other.state(channel_id)
        assert (state["status"], state["model"]) == ("completed", MODEL)


async def test_answers_of_other_apis_come_from_any_queue(stack: Stack) -> None:
    front = await stack.front(**spread(2))
    await stack.worker()
    for number in range(4):
        status, chat = await front.ask("/v1/chat/completions", chat_request(f"chat {number}"))
        assert (status, chat["model"]) == (200, MODEL)
        assert chat["choices"][0]["message"]["content"] == answer_to(f"chat {number}")
    seen = set()
    for number in range(8):
        body = {"model": MODEL, "input": f"response {number}"}
        _, response = await front.ask("/v1/responses", body)
        assert response["model"] == MODEL
        seen.add(channel_shard(response["id"].removeprefix("resp_")))
        async with front.get(f"/v1/responses/{response['id']}") as found:
            assert (await found.json())["output"] == response["output"]
    assert seen == {0, 1}


async def test_vectors_come_from_any_queue(stack: Stack) -> None:
    front = await stack.front(**spread(2), EMBEDDING_MODELS=MODEL, MODELS="")
    alone = await stack.front(EMBEDDING_MODELS=MODEL, MODELS="")
    async with open_embedding_worker(stack.redis_url, model=MODEL):
        for number in range(4):
            body = {"model": MODEL, "input": f"text {number}"}
            (_, one), (status, other) = [
                await each.ask("/v1/embeddings", body) for each in (alone, front)
            ]
            assert (status, other["data"]) == (200, one["data"])
    depths = [await stack.store.inspector.queue(queue_of(MODEL, at), top_keys=0) for at in (0, 1)]
    assert all(one.service_s is not None for one in depths), "each has served some"


async def test_the_model_s_bound_on_waiting_requests_holds_over_its_queues(stack: Stack) -> None:
    front = await stack.front(**spread(2), MAX_WAITING="6")
    assert await statuses_of(front, 10) == [202] * 6 + [429] * 4


@pytest.mark.parametrize("number", range(6))
async def test_a_conversation_s_full_queue_hands_it_on_to_any_other(
    stack: Stack, number: int
) -> None:
    """Its name decides which of them is the first."""
    front = await stack.front(**spread(2), MAX_WAITING="6")
    channels = [await front.submit(chat_request(f"talk {number}")) for _ in range(6)]
    assert Counter(map(channel_shard, channels)) == {0: 3, 1: 3}


async def test_a_key_s_bound_on_unfinished_requests_holds_over_the_queues(stack: Stack) -> None:
    front = await stack.front(**spread(2), MAX_INFLIGHT_PER_KEY="6")
    assert await statuses_of(front, 10, Authorization="Bearer one") == [202] * 6 + [429] * 4
    assert await statuses_of(front, 1, Authorization="Bearer two") == [202]


async def test_limits_of_a_key_are_exact_over_queues_and_orchestrators(
    stack: Stack, tmp_path: Path
) -> None:
    key_file = KeyFile(tmp_path / "keys.json", one={"concurrent_requests": 5})
    fronts = [await stack.front(**spread(4), **key_file.settings) for _ in range(2)]
    found = await asyncio.gather(*(statuses_of(front, 8, **bearer("one")) for front in fronts))
    assert [*chain(*found)].count(202) == 5


async def test_an_idempotency_key_finds_its_request_after_the_queues_became_more_and_fewer(
    stack: Stack,
) -> None:
    names = [f"name-{number}" for number in range(6)]
    first = await stack.front(**spread(2))
    channels = [
        await first.submit(chat_request(name), **{"Idempotency-Key": name}) for name in names
    ]
    for number in (1, 3):
        front = await stack.front(**spread(number))
        again = [
            await front.submit(chat_request(name), **{"Idempotency-Key": name}) for name in names
        ]
        assert again == channels
    async with first.post(
        "/v1/requests", chat_request("other"), headers={"Idempotency-Key": names[0]}
    ) as response:
        assert response.status == 409


async def test_operators_see_the_model_s_requests_in_all_queues(stack: Stack) -> None:
    front = await stack.front(**spread(2))
    channels = await submit_all(front, 8)
    async with front.get("/v1/admin/queues") as response:
        (queue,) = (await response.json())["queues"]
    assert (queue["model"], queue["waiting"]) == (MODEL, 8)
    async with front.get("/v1/admin/channels") as response:
        listed = (await response.json())["channels"]
    assert {one["channel_id"] for one in listed} == set(channels.values())
    seen = await scrape(front.session, front.url)
    assert seen.of("relais_num_requests_unfinished", model_name=MODEL) == 8
    # An orchestrator that fills one queue alone tells of both.
    other = await stack.front()
    seen = await scrape(other.session, other.url)
    assert seen.of("relais_num_requests_waiting", model_name=MODEL) == 8


async def test_a_worker_counts_once_whatever_the_number_of_queues(stack: Stack) -> None:
    front = await stack.front(**spread(3))
    worker = await stack.worker(max_num_seqs=8)

    async def is_one() -> bool:
        seen = await scrape(front.session, front.url)
        return seen.of("relais_workers", model_name=MODEL, state="ready") == 1

    await wait_until(is_one)
    async with front.get("/v1/admin/workers") as response:
        (shown,) = (await response.json())["workers"]
    assert (shown["worker_id"], shown["capacity"]) == (worker.worker_id, 8)


async def test_a_reader_that_leaves_ends_its_request_in_any_queue(stack: Stack) -> None:
    front = await stack.front(**spread(2))
    channels = await submit_all(front, 4, on_disconnect="cancel")
    assert {channel_shard(one) for one in channels.values()} == {0, 1}
    for channel_id in channels.values():
        await wait_until(lambda: front.is_terminal(channel_id))  # noqa: B023
        assert await front.status(channel_id) == "cancelled"


async def test_an_orchestrator_shows_its_presence_in_every_queue(stack: Stack) -> None:
    front = await stack.front(**spread(2))
    watcher = front.parts.watcher.watcher_id

    async def is_present() -> bool:
        names = [keys.presence(queue_of(MODEL, shard), watcher) for shard in (0, 1)]
        counted = await stack.store.redis.pubsub_numsub(*names)
        return [count for _, count in counted] == [1, 1]

    await wait_until(is_present)


async def test_lines_of_a_batch_are_spread_and_traced(stack: Stack, kept: Kept) -> None:
    front = await stack.front(**spread(2), **kept.settings)
    client = BatchClient(front.session)
    batch_id = await client.create(encode(lines(20)))

    async def both_wait() -> bool:
        depths = [await stack.store.intake.depth(queue_of(MODEL, shard)) for shard in (0, 1)]
        return [one.waiting for one in depths] == [8, 8]

    # 16 at once, while no worker is there.
    await wait_until(both_wait)
    # Whoever takes the batch over feeds the same lines to the same queues, whatever it spreads over itself.
    await stack.close_front(front)
    front = await stack.front(**kept.settings)
    await stack.worker()
    client = BatchClient(front.session)
    batch = await client.ended(batch_id)
    assert batch["request_counts"] == {"total": 20, "completed": 20, "failed": 0}
    found = await client.content(batch["output_file_id"])
    said = [one["response"]["body"]["choices"][0]["message"]["content"] for one in found]
    assert said == [answer_to(f"line {number}", 4) for number in range(20)]

    async def traced() -> bool:
        return await kept.count() == 20

    await wait_until(traced)
    documents = await kept.documents()
    assert {(one["model"], one["takes"]) for one in documents} == {(MODEL, 1)}


async def test_a_bad_channel_of_a_shard_is_unknown(stack: Stack) -> None:
    front = await stack.front(**spread(2))
    channel_id = await front.submit(chat_request())
    tag, _, own = channel_id.rpartition(".")
    for other in (f"{tag.partition(':')[0]}:31.{own}", f"{tag}:1.{own}", f"{tag}%0a1.{own}"):
        async with front.get(f"/v1/channels/{other}") as response:
            assert response.status == 404
    async with front.session.post(
        "/v1/requests", json=chat_request() | {"model": queue_of(MODEL, 1)}
    ) as response:
        assert response.status == 404
