"""The machine of Redis loses power, and the end of the append-only file with it: what is healed, and what is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from relais_common.jobs.events import Completed, Timings, Token, Usage
from relais_common.jobs.job import Append, TakenJob
from relais_common.queue import codec
from relais_testing.builders import MODEL, make_job
from relais_testing.ports import redis_ports
from relais_testing.power_loss import lose_power, wait_written, written
from relais_testing.sse_client import SseEvent, ids_of, read_events, sse_events, text_of
from relais_testing.stack import Front, Stack, answer_to, chat_request
from relais_testing.steps import append, enqueue, finish, start, take, take_one
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import LIVENESS_S, wait_until
from relais_testing.worker import MORTAL_LEASE_S

TOKENS = 200
LONG = {"params": {"max_tokens": TOKENS}}
WATCHED = {"WATCH_LEASE_S": "300"}
"""A loss of so many seconds, here, would take a shorter lease with it."""


@pytest.fixture
def server(make_redis_server: Callable[..., ValkeyServer]) -> ValkeyServer:
    return make_redis_server(appendonly=True, options={"appendfsync": "everysec"})


@pytest.fixture
async def stack(server: ValkeyServer) -> AsyncIterator[Stack]:
    stack = await Stack.open(server.url)
    yield stack
    await stack.close()


class Reader:
    """A client on one connection, and what it has got so far."""

    def __init__(self, front: Front, method: str, path: str, body: dict[str, Any] | None) -> None:
        self.events: list[SseEvent] = []
        self._request = front.get(path) if body is None else front.post(path, body)
        self._task = asyncio.create_task(self._read())

    @classmethod
    def of_channel(cls, front: Front, channel_id: str) -> Reader:
        return cls(front, "GET", f"/v1/channels/{channel_id}/events", None)

    @classmethod
    def of_chat(cls, front: Front, content: str) -> Reader:
        body = chat_request(content, stream=True, max_tokens=TOKENS)
        return cls(front, "POST", "/v1/chat/completions", body)

    async def _read(self) -> None:
        async with self._request as response:
            assert response.status == 200
            async for event in sse_events(response):
                if event.name != "queued" or event.id:  # not a place in the queue
                    self.events.append(event)

    async def has(self, count: int) -> None:
        await wait_until(lambda: len(self.events) >= count)

    async def whole(self) -> list[SseEvent]:
        await self._task
        return self.events


async def lose(server: ValkeyServer, mark: int) -> None:
    # What the server still holds back, as it does while the disk is busy, was never in the file.
    await asyncio.to_thread(wait_written, server.url)
    assert await asyncio.to_thread(lose_power, server, mark) > 0
    await asyncio.to_thread(server.start)


async def tail_of(stack: Stack, channel_id: str) -> int:
    return len(await stack.store.log.read(channel_id, after=0, limit=10_000))


async def test_living_worker_fills_the_log_again_and_its_reader_sees_only_a_pause(
    stack: Stack, server: ValkeyServer
) -> None:
    front = await stack.front(LEASE_S="300")
    await stack.worker(tokens_per_s=25, lease_s=LIVENESS_S)
    channel_id = await front.submit(chat_request("a", **LONG))
    reader = Reader.of_channel(front, channel_id)
    await reader.has(20)
    mark = written(server)
    await reader.has(60)
    await lose(server, mark)
    events = await reader.whole()
    assert ids_of(events) == list(range(1, TOKENS + 4))
    assert text_of(events) == answer_to("a", TOKENS)
    path = f"/v1/channels/{channel_id}/events"
    assert await read_events(front.session, path) == events
    assert await read_events(front.session, path, after=50) == events[50:]


async def test_job_taken_in_the_lost_second_is_done_by_whoever_takes_it_next(
    stack: Stack, server: ValkeyServer
) -> None:
    front = await stack.front(LEASE_S="300")
    channel_id = await front.submit(chat_request("a", **LONG))
    mark = written(server)
    await stack.worker(tokens_per_s=100, lease_s=LIVENESS_S)
    reader = Reader.of_channel(front, channel_id)
    await reader.has(30)
    await lose(server, mark)
    events = await reader.whole()
    if events[-1].name == "log_rewound":
        # On a busy machine tokens share an event, and not the same ones the second time.
        events = await read_events(front.session, f"/v1/channels/{channel_id}/events")
    assert ids_of(events) == list(range(1, len(events) + 1))
    assert text_of(events) == answer_to("a", TOKENS)


async def test_fence_of_a_take_that_was_forgotten_never_comes_again(
    stack: Stack, server: ValkeyServer
) -> None:
    """Or two workers would hold one job at once, each sure of it."""
    ports = redis_ports(stack.store)
    await enqueue(ports, make_job())
    mark = written(server)
    forgotten = await take_one(ports)
    await lose(server, mark)
    heir = await take_one(ports, worker_id="worker-2")
    assert heir.job.channel_id == forgotten.job.channel_id
    assert not (await append(ports, forgotten.lease, 2)).held
    assert (await append(ports, heir.lease, 2)).held
    assert not (await finish(ports, forgotten.lease, 3)).held


async def test_id_past_the_tail_is_log_rewound_and_the_stream_goes_on_once_it_is_the_same_again(
    stack: Stack, server: ValkeyServer
) -> None:
    front, other = await stack.front(), await stack.front()
    doomed = await stack.worker(lease_s=MORTAL_LEASE_S, tokens_per_s=25)
    channel_id = await front.submit(chat_request("a", **LONG))
    path = f"/v1/channels/{channel_id}/events"
    reader = Reader.of_channel(front, channel_id)
    await reader.has(20)
    mark = written(server)
    await reader.has(60)
    await doomed.kill()
    await lose(server, mark)
    seen = len(reader.events)
    for one in (front, other):
        async with one.get(path, headers={"Last-Event-ID": str(seen)}) as response:
            assert response.status == 409
            assert (await response.json())["error"]["code"] == "log_rewound"
    # An answer that any worker gives the same way grows past where the open stream is, which then goes on.
    await stack.worker(tokens_per_s=200)
    events = await reader.whole()
    assert ids_of(events) == list(range(1, TOKENS + 4))
    assert text_of(events) == answer_to("a", TOKENS)


async def other_worker(stack: Stack, *, words: int) -> None:
    """A worker that goes on with other words, as sampling without a seed does."""
    ports = redis_ports(stack.store)

    async def taken() -> list[TakenJob]:
        return await take(ports, worker_id="other", idle=True)

    (job,) = await wait_until(taken)
    await start(ports, job.lease)
    lines = tuple(codec.encode_event(Token("otherwise ", (7,))) for _ in range(words))
    await ports.source.append([Append(job.lease, job.tail + 1, lines, True)])
    usage, timings = Usage(3, 9), Timings(queue_s=0.0, prefill_s=0.0, decode_s=0.0)
    end = Completed("stop", usage, timings)
    assert (await finish(ports, job.lease, job.tail + words + 1, end, "other text")).held


@pytest.mark.parametrize(
    "words", [pytest.param(3, id="ends short of it"), pytest.param(300, id="grows past it")]
)
@pytest.mark.parametrize("route", ["native", "openai"])
async def test_open_stream_never_goes_on_in_another_answer(
    stack: Stack, server: ValkeyServer, route: str, words: int
) -> None:
    front = await stack.front(**WATCHED)
    doomed = await stack.worker(lease_s=MORTAL_LEASE_S, tokens_per_s=25)
    if route == "native":
        reader = Reader.of_channel(front, await front.submit(chat_request("a", **LONG)))
    else:
        reader = Reader.of_chat(front, "a")
    await reader.has(20)
    mark = written(server)
    await reader.has(60)
    await doomed.kill()
    await lose(server, mark)
    seen = list(reader.events)
    await other_worker(stack, words=words)
    *events, last = await reader.whole()
    assert events == seen
    assert last.json["error"]["code"] == "log_rewound"
    assert (last.id, last.name) == ("", "log_rewound" if route == "native" else "message")


async def test_answer_that_was_not_sent_yet_is_simply_the_other_one(
    stack: Stack, server: ValkeyServer
) -> None:
    front = await stack.front(**WATCHED)
    doomed = await stack.worker(lease_s=MORTAL_LEASE_S, tokens_per_s=25)
    body = chat_request("a", max_tokens=TOKENS)

    async def ask() -> dict[str, Any]:
        async with front.post("/v1/chat/completions", body) as response:
            assert response.status == 200, await response.text()
            answer: dict[str, Any] = await response.json()
            return answer

    asking = asyncio.create_task(ask())
    await wait_until(lambda: any(held.next_seq > 20 for held in doomed.held_jobs.all()))
    mark = written(server)
    await wait_until(lambda: any(held.next_seq > 60 for held in doomed.held_jobs.all()))
    await doomed.kill()
    await lose(server, mark)
    await other_worker(stack, words=300)
    text = (await asking)["choices"][0]["message"]["content"]
    kept = text.removesuffix("otherwise " * 300)
    assert text != kept
    assert answer_to("a", TOKENS).startswith(kept)


async def test_request_accepted_in_the_lost_second_is_unknown_and_its_key_makes_it_anew(
    stack: Stack, server: ValkeyServer
) -> None:
    front = await stack.front()
    await front.submit(chat_request("before"))
    mark = written(server)
    key = {"Idempotency-Key": "once"}
    channel_id = await front.submit(chat_request("a"), **key)
    reader = Reader.of_channel(front, channel_id)
    await reader.has(1)
    await lose(server, mark)
    assert [event.name for event in await reader.whole()] == ["queued"]
    for path in (f"/v1/channels/{channel_id}", f"/v1/channels/{channel_id}/events"):
        async with front.get(path) as response:
            assert response.status == 404
            assert (await response.json())["error"]["code"] == "channel_not_found"
    await stack.worker()
    again = await front.submit(chat_request("a"), **key)
    assert again != channel_id
    await wait_until(lambda: front.is_terminal(again))
    assert (await front.state(again))["result"]["text"] == answer_to("a")
    await wait_until(stack.idle)
    assert (await stack.store.intake.depth(MODEL)).waiting == 0
