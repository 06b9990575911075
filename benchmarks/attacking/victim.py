"""Clients who mean no harm, in a process of their own: `python -m benchmarks.attacking.victim OPTIONS`.

They ask at a steady pace, whether or not what they asked before was answered, each over a connection of its own. Every
probe is two lines of JSON on stdout: one when it is sent, one when its last byte has come. It ends when stdin does.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from itertools import count, cycle

import aiohttp
import orjson

TIMEOUT_S = 120.0
KINDS = ("healthz", "chat", "embedding", "stream")
_EVERY_S = {"healthz": 0.2, "chat": 0.5, "embedding": 0.5, "stream": 3.0}


@dataclass(frozen=True, slots=True)
class Options:
    """Whom to ask for what.

    Attributes:
        fronts: base URLs, asked in turns.
        tokens: of a chat; a stream has five times as many.
        pace: how many times as often as usual.
    """

    fronts: tuple[str, ...]
    key: str
    model: str
    vectors: str
    tokens: int = 8
    pace: float = 1.0


@dataclass(frozen=True, slots=True)
class Probe:
    """One request.

    Attributes:
        began_s: when it was sent, by the machine's monotonic clock.
        took_s: until its last byte; of a stream the longest time between two chunks. None while it lasts.
        error: what was wrong with the answer.
    """

    number: int
    kind: str
    began_s: float
    took_s: float | None = None
    error: str | None = None


class _Refused(Exception):
    pass


class _Asker:
    def __init__(self, options: Options, session: aiohttp.ClientSession) -> None:
        self._options = options
        self._session = session
        self._headers = {"Authorization": f"Bearer {options.key}"}

    async def healthz(self, front: str) -> float:
        began_s = time.monotonic()
        async with self._session.get(f"{front}/healthz") as response:
            await _read(response)
        return time.monotonic() - began_s

    async def chat(self, front: str) -> float:
        return await self._post(front, "/v1/chat/completions", self._chat_body())

    async def embedding(self, front: str) -> float:
        body: dict[str, object] = {"model": self._options.vectors, "input": ["a small text"]}
        return await self._post(front, "/v1/embeddings", body)

    async def stream(self, front: str) -> float:
        body = self._chat_body() | {"stream": True, "max_tokens": 5 * self._options.tokens}
        last_s, longest_s, rest = time.monotonic(), 0.0, b""
        async with self._session.post(
            f"{front}/v1/chat/completions", json=body, headers=self._headers
        ) as response:
            if response.status != 200:
                await _read(response)
            async for data in response.content.iter_any():
                now_s = time.monotonic()
                longest_s, last_s = max(longest_s, now_s - last_s), now_s
                rest = (rest + data)[-64:]
        if b"data: [DONE]" not in rest:
            raise _Refused(f"the stream ended with {rest[-60:]!r}")
        return longest_s

    def _chat_body(self) -> dict[str, object]:
        messages = [{"role": "user", "content": "The lamp in our street is broken."}]
        return {
            "model": self._options.model,
            "messages": messages,
            "max_tokens": self._options.tokens,
            "temperature": 0,
        }

    async def _post(self, front: str, path: str, body: dict[str, object]) -> float:
        began_s = time.monotonic()
        async with self._session.post(front + path, json=body, headers=self._headers) as response:
            await _read(response)
        return time.monotonic() - began_s


async def _read(response: aiohttp.ClientResponse) -> None:
    body = await response.read()
    if response.status != 200:
        raise _Refused(f"{response.status} {body[:120].decode(errors='replace')}")


async def _send(probe: Probe, ask: Callable[[str], Awaitable[float]], front: str) -> None:
    _say(probe)
    try:
        probe = replace(probe, took_s=await ask(front))
    except (aiohttp.ClientError, TimeoutError, OSError, _Refused) as fault:
        took_s = time.monotonic() - probe.began_s
        probe = replace(probe, took_s=took_s, error=f"{type(fault).__name__}: {fault}")
    _say(probe)


def _say(probe: Probe) -> None:
    print(orjson.dumps(asdict(probe)).decode(), flush=True)


async def _run(options: Options) -> None:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with (
        aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
        asyncio.TaskGroup() as group,
    ):
        asker = _Asker(options, session)

        numbers, fronts = count(), cycle(options.fronts)

        async def ask_steadily(kind: str) -> None:
            due_s = time.monotonic()
            while True:
                probe = Probe(next(numbers), kind, time.monotonic())
                group.create_task(_send(probe, getattr(asker, kind), next(fronts)))
                due_s += _EVERY_S[kind] / options.pace
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))

        asking = [group.create_task(ask_steadily(kind)) for kind in KINDS]
        await asyncio.to_thread(sys.stdin.read)
        for task in asking:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(_run(Options(**orjson.loads(sys.argv[1]))))
