"""Calls of one turn travel together; each has an answer, an error and an end of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from itertools import pairwise

import pytest
from redis.exceptions import ConnectionError, ResponseError, TimeoutError

from relais_common.queue.client.calls import RETRIES, Calls
from relais_common.queue.client.connection import connect_for_calls
from relais_common.queue.client.link import Link
from relais_common.queue.client.packing import MESSAGE_BYTES
from relais_common.queue.redis_store import RedisSettings
from relais_common.runtime.lifecycle import background
from relais_testing.reply_eater import ReplyEater
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import wait_until


@pytest.fixture
async def eater(redis_url: str, redis_server: ValkeyServer) -> AsyncIterator[ReplyEater]:
    async with ReplyEater(redis_server.host, redis_server.port) as eater:
        yield eater


@pytest.fixture
async def calls(eater: ReplyEater) -> AsyncIterator[Calls]:
    calls = connect_for_calls(RedisSettings(eater.url))
    async with background(calls.run()):
        yield calls


Noted = tuple[Calls, list[bytes], list[Callable[[], object]]]


@pytest.fixture
async def noted(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Noted]:
    """Calls, the messages that they send, and what runs before the next message is sent."""
    calls = connect_for_calls(RedisSettings(redis_url))
    messages: list[bytes] = []
    meanwhile: list[Callable[[], object]] = []
    make = calls._make_link

    def make_link() -> Link:
        one = make()
        send = one.send_packed_command

        async def note(message: bytes, check_health: bool = True) -> None:
            messages.append(message)
            while meanwhile:
                meanwhile.pop()()
            await send(message, check_health)

        monkeypatch.setattr(one, "send_packed_command", note)
        return one

    monkeypatch.setattr(calls, "_make_link", make_link)
    async with background(calls.run()):
        await calls.send("PING")
        messages.clear()
        yield calls, messages, meanwhile


async def test_calls_of_one_turn_leave_as_one_message_over_one_connection(noted: Noted) -> None:
    calls, messages, _ = noted

    async def ask(number: int) -> bytes:
        answer: bytes = await calls.send("ECHO", number)
        return answer

    answers = await asyncio.gather(*(ask(number) for number in range(50)))
    assert answers == [b"%d" % number for number in range(50)]
    assert [message.count(b"ECHO") for message in messages] == [50]


@pytest.mark.parametrize(("number", "size"), [(2, 12 * MESSAGE_BYTES), (200, 100 << 10)])
async def test_large_calls_leave_in_parts_with_turns_of_the_loop_between(
    noted: Noted, number: int, size: int
) -> None:
    calls, messages, _ = noted
    large = [os.urandom(size) for _ in range(number)]
    sent_before: list[int] = []

    async def look() -> None:
        while True:
            sent_before.append(sum(map(len, messages)))
            await asyncio.sleep(0)

    async with background(look()):
        assert await asyncio.gather(*(calls.send("ECHO", one) for one in large)) == large
    in_a_turn = max(after - before for before, after in pairwise(sent_before))
    assert in_a_turn < 2 * MESSAGE_BYTES


async def test_large_calls_leave_in_their_order(noted: Noted) -> None:
    calls, messages, _ = noted
    large = [b"%03d" % number * (32 << 10) for number in range(20)]
    assert await asyncio.gather(*(calls.send("ECHO", one) for one in large)) == large
    assert sorted(large, key=b"".join(messages).index) == large


async def test_small_calls_pass_large_ones_that_wait(noted: Noted) -> None:
    calls, messages, meanwhile = noted
    small: list[asyncio.Future[bytes]] = []
    meanwhile.append(lambda: small.append(calls.send("ECHO", "small")))
    large = [b"%d" % number * (2 * MESSAGE_BYTES) for number in range(5)]
    assert await asyncio.gather(*(calls.send("ECHO", one) for one in large)) == large
    assert await small[0] == b"small"
    sent = b"".join(messages)
    assert sent.index(large[0]) < sent.index(b"small") < sent.index(large[2])


async def test_an_error_is_that_of_its_call_only(calls: Calls) -> None:
    answers = await asyncio.gather(
        calls.send("ECHO", "before"),
        calls.send("INCR"),
        calls.send("ECHO", "after"),
        return_exceptions=True,
    )
    assert isinstance(answers[1], ResponseError)
    assert (answers[0], answers[2]) == (b"before", b"after")


async def test_cancelled_calls_leave_their_neighbours_answers_where_they_belong(
    calls: Calls, eater: ReplyEater
) -> None:
    await calls.send("PING")
    unsent = calls.send("ECHO", "never sent")
    unsent.cancel()
    sent = asyncio.ensure_future(calls.send("ECHO", "sent"))
    kept = calls.send("ECHO", "kept")
    await wait_until(lambda: eater.requests["echo"] > 0)
    sent.cancel()
    assert await kept == b"kept"
    assert await calls.send("ECHO", "next") == b"next"
    assert eater.requests["echo"] == 3


async def test_lost_connection_costs_answered_calls_nothing_and_the_others_are_sent_again(
    calls: Calls, eater: ReplyEater
) -> None:
    await calls.send("PING")
    eater.eat("echo")
    await calls.send("PING")
    answers = await asyncio.gather(
        calls.send("SET", "first", 1, "EX", 60),
        calls.send("ECHO", "lost once"),
        calls.send("SET", "second", 2, "EX", 60),
    )
    assert list(answers) == [b"OK", b"lost once", b"OK"]
    assert eater.requests["set"] == 3  # the first was answered, and is not sent again
    assert eater.requests["echo"] == 2


async def test_every_second_answer_lost_hangs_nobody_however_many_travel_together(
    calls: Calls, eater: ReplyEater
) -> None:
    """All of a message sent again each time, and its second answer lost each time, would never be done."""
    eater.eat_every("echo", 2)
    answers = await asyncio.gather(*(calls.send("ECHO", number) for number in range(20)))
    assert answers == [b"%d" % number for number in range(20)]


async def test_call_whose_answer_is_lost_too_often_fails_alone(
    calls: Calls, eater: ReplyEater
) -> None:
    await calls.send("PING")
    eater.eat("echo", RETRIES + 1)
    lost = calls.send("ECHO", "lost")
    with pytest.raises(ConnectionError):
        await lost
    assert eater.eaten["echo"] == RETRIES + 1
    assert await calls.send("ECHO", "next") == b"next"


async def test_late_answer_fails_the_call_in_time_and_the_next_goes_another_way(
    make_redis_server: Callable[..., ValkeyServer],
) -> None:
    server = make_redis_server()
    calls = connect_for_calls(RedisSettings(server.url, timeout_s=1))
    async with background(calls.run()):
        await calls.send("PING")
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                await calls.send("PING")
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert await calls.send("ECHO", "on") == b"on"


@pytest.mark.realtime  # a standstill is one of this very process, longer than the call may take
async def test_a_standstill_of_both_ends_fails_no_call(
    make_redis_server: Callable[..., ValkeyServer],
) -> None:
    server = make_redis_server()
    calls = connect_for_calls(RedisSettings(server.url, timeout_s=1))
    async with background(calls.run()):
        await calls.send("PING")
        os.kill(server.pid, signal.SIGSTOP)
        answer = calls.send("ECHO", "late")
        await asyncio.sleep(0.1)
        time.sleep(2)  # noqa: ASYNC251 # the standstill
        asyncio.get_running_loop().call_later(0.1, os.kill, server.pid, signal.SIGCONT)
        assert await answer == b"late"


async def test_closing_fails_what_is_under_way(redis_url: str) -> None:
    calls = connect_for_calls(RedisSettings(redis_url))
    async with background(calls.run()):
        await calls.send("PING")
        unanswered = calls.send("DEBUG", "SLEEP", 0)
    with pytest.raises(ConnectionError):
        await unanswered
