"""Interactive streams with and without a batch beside them, what the batch makes of idle capacity, and its cancel."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import orjson

from benchmarks.batching.stack import Stack, open_stack
from benchmarks.frames import END, Stream, ask
from relais_common.queue.redis_store import RedisSettings, RedisStore, open_store
from relais_testing.batches import ENDED, BatchClient, encode, line
from relais_testing.keys import bearer
from relais_testing.process_stack import DETERMINISTIC, MODEL
from relais_testing.scrape import scrape
from relais_testing.waiting import wait_until

PLACES = 16
ENGINE = {
    **DETERMINISTIC,
    "DETERMINISTIC_TOKENS_PER_S": "60",
    "VLLM_MAX_NUM_SEQS": str(PLACES),
}
STREAM_EVERY_S = 0.2
STREAM_TOKENS = 20
LINES = 2000
LINE_TOKENS = 200
TOKENS = "relais_generation_tokens_total"


@dataclass(frozen=True, slots=True)
class Window:
    """What was seen in one stretch of time.

    Attributes:
        first_s: of each interactive stream, from its request to its first text.
        interactive_tokens: of these streams; tokens: of all that the engine made.
        occupied: mean share of the engine's places that somebody had.
    """

    seconds: float
    first_s: Sequence[float]
    interactive_tokens: int
    tokens: float
    occupied: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


@dataclass(frozen=True, slots=True)
class Round:
    """One turn of everything.

    Attributes:
        full: the engine with as many interactive streams as it takes.
        alone, beside: without and with a batch.
        stopped_s, cancelled_s: from the cancel until nothing of the batch runs or waits, and until its files are there.
    """

    full: Window
    alone: Window
    beside: Window
    stopped_s: float
    cancelled_s: float

    @property
    def idle_used(self) -> float:
        """Return the share that the batch took of what interactive streams left of a full engine."""
        streams = self.beside.interactive_tokens / self.beside.seconds
        return (self.beside.tokens_per_s - streams) / (self.full.tokens_per_s - streams)


async def measure(*, rounds: int, seconds: float) -> list[Round]:
    """Streams at a steady pace, of another key than the batch."""
    with open_stack(ENGINE) as stack:
        async with (
            aiohttp.ClientSession() as session,
            open_store(RedisSettings(stack.redis_url)) as store,
        ):
            one = _Beside(stack, session, store, seconds)
            return [await one.round(number) for number in range(rounds)]


class _Beside:
    def __init__(
        self, stack: Stack, session: aiohttp.ClientSession, store: RedisStore, seconds: float
    ) -> None:
        self._stack = stack
        self._session = session
        self._store = store
        self._seconds = seconds
        self._rng = random.Random(1)
        self._client = BatchClient(session, stack.front.url, **bearer("nightly"))

    async def round(self, number: int) -> Round:
        full = await self._full(number)
        alone = await self._window(f"alone {number}")
        requests = [line(at, body=_chat(f"line {at}", LINE_TOKENS)) for at in range(LINES)]
        batch_id = await self._client.create(encode(requests))
        await wait_until(self._is_full)
        beside = await self._window(f"beside {number}")
        began_s = time.perf_counter()
        await self._client.cancel(batch_id)
        await wait_until(self._is_idle)
        stopped_s = time.perf_counter() - began_s
        await wait_until(lambda: self._has_ended(batch_id))
        found = Round(full, alone, beside, stopped_s, time.perf_counter() - began_s)
        print(f"round {number}: idle capacity used {found.idle_used:.1%}", flush=True)
        return found

    async def _full(self, number: int) -> Window:
        """Twice as many streams at once as there are places, one after another."""
        end_s = time.perf_counter() + self._seconds
        streams: list[Stream] = []

        async def client(who: int) -> None:
            while time.perf_counter() < end_s:
                streams.append(await self._ask(f"full {number} {who}", LINE_TOKENS))

        async with asyncio.TaskGroup() as group:
            for who in range(2 * PLACES):
                group.create_task(client(who))
            await wait_until(self._is_full)
            began_s, before = time.perf_counter(), await self._made()
            await asyncio.sleep(end_s - time.perf_counter())
            tokens, seconds = await self._made() - before, time.perf_counter() - began_s
        return Window(seconds, [], 0, tokens)

    async def _window(self, name: str) -> Window:
        """Streams at their pace, none of them waited for before the next is asked."""
        streams: list[Stream] = []
        running: list[int] = []

        async def keep(number: int) -> None:
            streams.append(await self._ask(f"{name} {number}", STREAM_TOKENS))

        count = int(self._seconds / STREAM_EVERY_S)
        began_s, before = time.perf_counter(), await self._made()
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                await asyncio.sleep(began_s + number * STREAM_EVERY_S - time.perf_counter())
                group.create_task(keep(number))
                # At any other time than that of a request.
                await asyncio.sleep(self._rng.uniform(0, STREAM_EVERY_S))
                running.append((await self._store.intake.depth(MODEL)).running)
            await asyncio.sleep(began_s + self._seconds - time.perf_counter())
            tokens, seconds = await self._made() - before, time.perf_counter() - began_s
        occupied = statistics.mean(running) / PLACES
        first_s = list(map(_first_s, streams))
        return Window(seconds, first_s, count * STREAM_TOKENS, tokens, occupied)

    async def _ask(self, prompt: str, tokens: int) -> Stream:
        stream, body = Stream(prompt), _chat(prompt, tokens) | {"stream": True}
        await ask(self._stack.front.url, orjson.dumps(body), stream)
        assert stream.frames[-1][1] == END, stream.frames[-1]
        return stream

    async def _made(self) -> float:
        return (await scrape(self._session, self._stack.worker.url)).of(TOKENS)

    async def _is_full(self) -> bool:
        return (await self._store.intake.depth(MODEL)).running >= PLACES

    async def _is_idle(self) -> bool:
        depth = await self._store.intake.depth(MODEL)
        return depth.running == depth.waiting == 0

    async def _has_ended(self, batch_id: str) -> bool:
        return (await self._client.show(batch_id))["status"] in ENDED


def _chat(prompt: str, tokens: int) -> dict[str, object]:
    messages = [{"role": "user", "content": prompt}]
    return {"model": MODEL, "messages": messages, "max_tokens": tokens}


def _first_s(stream: Stream) -> float:
    for at_s, frame in stream.frames:
        if frame.startswith(b"data: {"):
            choices = orjson.loads(frame.removeprefix(b"data: "))["choices"]
            if choices and choices[0]["delta"].get("content"):
                return at_s - stream.asked_s
    raise AssertionError(f"{stream.prompt}: no text")
