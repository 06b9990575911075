"""The example client against servers that refuse, break off and forget, as the script of each test says."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from resuming_client import Event, Refused, Unreachable, ask, text_after

Step = Callable[[web.Request], Awaitable[web.StreamResponse]]
EVENTS_URL = "/v1/channels/m.1/events?token=t"
RETRY = b"retry: 1000\n\n"


def frame(number: int | None, name: str, data: object) -> bytes:
    head = b"" if number is None else b"id: %d\n" % number
    return head + f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def token(number: int, text: str) -> bytes:
    return frame(number, "token", {"text": text, "token_ids": [number]})


def answers(status: int, **headers: str) -> Step:
    async def step(request: web.Request) -> web.StreamResponse:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response({"error": {"message": "no"}}, status=status, headers=names)

    return step


def streams(*chunks: bytes, cut: bool = False) -> Step:
    """Each chunk is a write of its own; a stream that is cut has no end by the book."""

    async def step(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        for chunk in (RETRY, *chunks):
            await response.write(chunk)
        if cut:
            assert request.transport is not None
            request.transport.close()
        return response

    return step


async def accepts(request: web.Request) -> web.StreamResponse:
    return web.json_response({"events_url": EVENTS_URL}, status=202)


async def hangs_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


class Script:
    """A server that answers each request by the next step, and notes what it was asked."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        self._steps = iter(steps)
        self.seen: list[tuple[str, str | None]] = []
        self.submitted: list[tuple[str, bytes]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.path_qs, request.headers.get("Last-Event-ID")))
        if request.method == "POST":
            self.submitted.append((request.headers["Idempotency-Key"], await request.read()))
        return await next(self._steps)(request)

    @property
    def resumed_after(self) -> list[str | None]:
        return [after for path, after in self.seen if path == EVENTS_URL]


@asynccontextmanager
async def server(*steps: Step) -> AsyncIterator[tuple[str, Script]]:
    script = Script(steps)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", script.handle)
    async with TestServer(app) as running:
        yield str(running.make_url("/")), script


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the client slept, without the time it takes."""
    slept: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr("resuming_client.asyncio.sleep", note)
    return slept


async def read(url: str, *more: str, patience_s: float = 60.0) -> list[Event]:
    return [event async for event in ask([url, *more], {"model": "m"}, patience_s=patience_s)]


def text_of(events: list[Event]) -> str:
    text = ""
    for event in events:
        text = text_after(text, event)
    return text


COMPLETED = frame(3, "completed", {"finish_reason": "stop"})


async def test_submit_is_repeated_to_the_letter_until_it_is_accepted() -> None:
    refusals = (answers(503), answers(429), hangs_up, answers(500))
    async with server(*refusals, accepts, streams(COMPLETED)) as (url, script):
        events = await read(url)
    assert [event.name for event in events] == ["completed"]
    assert len(script.submitted) == 5
    assert len(set(script.submitted)) == 1


async def test_pause_is_as_long_as_the_server_asks_and_grows(pauses: list[float]) -> None:
    steps = (answers(503, Retry_After="7"), *[answers(502)] * 8)
    async with server(*steps, accepts, streams(COMPLETED)) as (url, _):
        await read(url)
    assert 7 <= pauses[0] < 8
    assert all(pause_s <= 10 for pause_s in pauses[1:])
    assert len(set(pauses)) == len(pauses)


async def test_stream_that_breaks_off_goes_on_after_the_last_event_that_has_an_id() -> None:
    news = frame(None, "queued", {"queue_position": 2})
    strange = frame(None, "weather", {"text": "rain"})
    cut_event = token(3, "lost")[:20]
    steps = (
        accepts,
        streams(token(1, "a"), token(2, "b"), news, strange, cut_event, cut=True),
        hangs_up,
        streams(token(3, "c"), frame(4, "completed", {"finish_reason": "stop"})),
    )
    async with server(*steps) as (url, script):
        events = await read(url)
    assert script.resumed_after == [None, "2", "2"]
    assert [event.id for event in events] == [1, 2, None, None, 3, 4]
    assert text_of(events) == "abc"


async def test_stream_that_ends_without_a_terminal_event_goes_on_at_the_next_server() -> None:
    async with (
        server(accepts, streams(token(1, "a"))) as (url, _),
        server(streams(token(2, "b"), COMPLETED)) as (next_url, script),
    ):
        assert text_of(await read(url, next_url)) == "ab"
    assert script.resumed_after == ["1"]


async def test_event_that_comes_in_pieces_is_whole() -> None:
    whole = token(1, "é") + token(2, "b") + COMPLETED
    pieces = [whole[i : i + 7] for i in range(0, len(whole), 7)]
    async with server(accepts, streams(b": keep-alive\n\n", *pieces)) as (url, _):
        assert text_of(await read(url)) == "éb"


async def test_last_event_of_a_log_that_has_gone_carries_the_whole_text() -> None:
    last = frame(9, "completed", {"finish_reason": "stop", "text": "x" * 300_000})
    async with server(accepts, streams(token(1, "x"), cut=True), streams(last)) as (url, _):
        assert text_of(await read(url)) == "x" * 300_000


async def test_rewound_log_is_read_again_from_the_beginning() -> None:
    steps = (
        accepts,
        streams(token(1, "a"), token(2, "b"), cut=True),
        answers(409),
        streams(token(1, "c"), token(2, "d"), COMPLETED),
    )
    async with server(*steps) as (url, script):
        events = await read(url)
    assert script.resumed_after == [None, "2", None]
    assert [event.name for event in events] == "token token restarted token token completed".split()
    assert text_of(events) == "cd"


async def test_restarted_event_of_a_server_discards_the_text_so_far() -> None:
    restarted = frame(2, "restarted", {"reason": "worker_lost"})
    last = frame(4, "completed", {"finish_reason": "stop"})
    async with server(accepts, streams(token(1, "a"), restarted, token(3, "b"), last)) as (url, _):
        assert text_of(await read(url)) == "b"


async def test_nothing_left_is_the_end() -> None:
    async with server(accepts, streams(token(1, "a"), cut=True), answers(204)) as (url, _):
        assert text_of(await read(url)) == "a"


@pytest.mark.parametrize("status", [400, 401, 404, 413])
async def test_what_would_be_refused_again_is_not_tried_again(status: int) -> None:
    async with server(answers(status)) as (url, script):
        with pytest.raises(Refused) as refused:
            await read(url)
    assert refused.value.status == status
    assert len(script.seen) == 1


async def test_forgotten_request_is_refused() -> None:
    async with server(accepts, answers(404)) as (url, _):
        with pytest.raises(Refused) as refused:
            await read(url)
    assert refused.value.status == 404


async def test_patience_ends() -> None:
    async with server(answers(503, Retry_After="90")) as (url, _):
        with pytest.raises(Unreachable):
            await read(url)


async def test_a_server_that_stays_away_is_told_of_once_and_its_return_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "resuming_client")
    away = [answers(503)] * 25
    done = streams(RETRY, frame(1, "completed", {"text": ""}))
    async with server(*away, accepts, done) as (url, _):
        await read(url)

    told = [record.message for record in caplog.records]
    assert [message for message in told if "retrying" in message] == told[:1]
    assert told[1:] == [f"going on at {url.rstrip('/')}"]
