"""A stream goes on where its client stopped: on another orchestrator, late, or after its log has gone."""

from __future__ import annotations

import asyncio
from functools import partial

from relais_common.queue import codec, keys
from relais_testing.builders import COMPLETED
from relais_testing.sse_client import ids_of, read_events, text_of
from relais_testing.stack import Front, Stack, answer_to, chat_request
from relais_testing.waiting import wait_until

LONG = {"params": {"max_tokens": 300}}


async def test_client_that_was_cut_off_goes_on_at_another_orchestrator(stack: Stack) -> None:
    front, other = await stack.front(), await stack.front()
    await stack.worker(tokens_per_s=300)
    channel_id = await front.submit(chat_request("a", **LONG))
    path = f"/v1/channels/{channel_id}/events"
    events = await read_events(front.session, path, stop_after=40)
    for one, count in ((other, 90), (front, 50), (other, 10**9)):
        events += await read_events(one.session, path, after=len(events), stop_after=count)
    assert ids_of(events) == list(range(1, 304))
    assert text_of(events) == answer_to("a", 300)
    assert events[-1].name == "completed"


async def test_two_readers_of_one_channel_see_the_same(stack: Stack) -> None:
    front, other = await stack.front(), await stack.front()
    await stack.worker(tokens_per_s=500)
    channel_id = await front.submit(chat_request("a", **LONG))
    path = f"/v1/channels/{channel_id}/events"
    one, two, three = await asyncio.gather(
        *(read_events(reader.session, path) for reader in (front, front, other))
    )
    assert one == two == three
    assert text_of(one) == answer_to("a", 300)


async def test_late_subscriber_gets_everything(stack: Stack) -> None:
    front, other = await stack.front(), await stack.front()
    await stack.worker()
    channel_id = await front.submit(chat_request("a", params={"max_tokens": 1000}))
    await wait_until(lambda: front.is_terminal(channel_id))
    events = await read_events(other.session, f"/v1/channels/{channel_id}/events")
    assert ids_of(events) == list(range(1, 1004))
    assert text_of(events) == answer_to("a", 1000)


async def test_query_parameter_resumes_too_as_an_event_source_cannot_send_headers(
    front: Front, stack: Stack
) -> None:
    await stack.worker()
    channel_id = await front.submit(chat_request("a"))
    path = f"/v1/channels/{channel_id}/events"
    whole = await read_events(front.session, path)
    rest = await read_events(front.session, f"{path}?last_event_id=10")
    assert rest == whole[10:]


async def test_nothing_left_is_204(front: Front, stack: Stack) -> None:
    await stack.worker()
    channel_id = await front.submit(chat_request("a"))
    path = f"/v1/channels/{channel_id}/events"
    last = len(await read_events(front.session, path))
    async with front.get(path, headers={"Last-Event-ID": str(last)}) as response:
        assert response.status == 204


async def test_terminal_event_with_the_whole_text_outlives_the_log(stack: Stack) -> None:
    front = await stack.front()
    await stack.worker()
    channel_id = await front.submit(chat_request("a"))
    path = f"/v1/channels/{channel_id}/events"
    assert len(await read_events(front.session, path)) == 35
    await stack.store.redis.delete(keys.log(channel_id))
    for after in (None, 10):
        (end,) = await read_events(front.session, path, after=after)
        assert (end.name, end.id) == ("completed", "35")
        assert end.json["text"] == answer_to("a")
        assert end.json["finish_reason"] == "stop"
    async with front.get(path, headers={"Last-Event-ID": "35"}) as response:
        assert response.status == 204
    assert (await front.state(channel_id))["result"]["text"] == answer_to("a")


async def test_reader_who_missed_the_end_and_the_log_gets_the_compacted_end(stack: Stack) -> None:
    front = await stack.front(RESULT_TTL_S="60", LOG_TTL_S="60")
    channel_id = await front.submit(chat_request("a"))
    async with front.get(f"/v1/channels/{channel_id}/events") as response:
        lines = response.content
        while b"event: queued" not in await lines.readline():
            pass
        # What an outage longer than the log's time looks like to this reader.
        await stack.store.redis.delete(keys.log(channel_id))
        job_key = keys.job(channel_id)
        ending = codec.encode_event(COMPLETED)
        for name, value in (("outcome", ending), ("text", b"all"), ("tail", b"35")):
            await stack.store.redis.hset(job_key, name, value)
        await stack.store.redis.hset(job_key, "status", "completed")
        rest = (await lines.read()).decode()
    assert "id: 35\nevent: completed\n" in rest
    assert '"text":"all"' in rest
    await stack.store.redis.flushall()


async def no_log(stack: Stack, channel_id: str) -> bool:
    return not await stack.store.log.read(channel_id, after=0, limit=1)


async def test_everything_is_gone_in_the_end(stack: Stack) -> None:
    front = await stack.front(LOG_TTL_S="1", RESULT_TTL_S="1")
    await stack.worker()
    channel_id = await front.submit(chat_request("a"))

    async def gone() -> bool:
        async with front.get(f"/v1/channels/{channel_id}") as response:
            return bool(response.status == 404)

    await wait_until(gone)


async def test_repeated_openai_request_is_answered_after_the_log_of_the_first_has_gone(
    stack: Stack,
) -> None:
    front = await stack.front(LOG_TTL_S="1", RESULT_TTL_S="60")
    await stack.worker()
    key = {"Idempotency-Key": "once"}
    for _ in range(2):
        async with front.post("/v1/chat/completions", chat_request("a"), headers=key) as response:
            assert response.status == 200
            channel_id = response.headers["X-Request-Id"]
            body = await response.json()
        assert body["choices"][0]["message"]["content"] == answer_to("a")
        assert body["usage"]["completion_tokens"] == 32
        await wait_until(partial(no_log, stack, channel_id))
