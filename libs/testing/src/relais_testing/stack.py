"""Orchestrators and workers in this process, over a real Redis, as many as a test wants.

    stack = await Stack.open(redis_url)
    front, other = await stack.front(), await stack.front(WRITE_TIMEOUT_S="0.5")
    worker = await stack.worker(tokens_per_s=50)
    async with front.post("/v1/requests", chat_request("hello")) as response: ...

Settings of an orchestrator are given as its environment variables. Timings are short by default.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from relais_common.jobs.errors import StoreUnavailable
from relais_common.queue.redis_store import RedisSettings, RedisStore, open_store
from relais_llm_worker.engines.engine_deterministic import (
    DEFAULT_ANSWER_TOKENS,
    answer_text,
)
from relais_orchestrator.app import open_orchestrator
from relais_orchestrator.app_keys import Parts
from relais_orchestrator.settings import Settings, read_settings
from relais_testing.builders import MODEL
from relais_testing.documented import DocumentedResponse
from relais_testing.owned import Owned
from relais_testing.waiting import LIVENESS_S
from relais_testing.worker import Worker, open_worker

SHORT = {
    "API_PORT": "0",
    "MODELS": MODEL,
    "KEEPALIVE_S": "0.2",
    "WRITE_TIMEOUT_S": "5",
    "WATCH_LEASE_S": "1",
    "LEASE_S": "1",
    "REAP_EVERY_S": "0.1",
}


def orchestrator_settings(redis_url: str, **environ: str) -> Settings:
    """Return settings with short timings; any environment variable may be given."""
    return read_settings(SHORT | {"REDIS_URL": redis_url} | environ)


@dataclass(frozen=True)
class Front:
    """An orchestrator and a client; every response is checked against the OpenAPI document."""

    parts: Parts
    url: str
    session: aiohttp.ClientSession

    @property
    def port(self) -> int:
        """Return the port."""
        return int(self.url.rpartition(":")[2])

    def get(self, path: str, **kwargs: Any) -> Any:
        """GET a path."""
        return self.session.get(path, **kwargs)

    def delete(self, path: str, **kwargs: Any) -> Any:
        """DELETE a path."""
        return self.session.delete(path, **kwargs)

    def post(self, path: str, body: Any, **kwargs: Any) -> Any:
        """POST a body: bytes unchanged, anything else as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | kwargs.pop("headers", {})
        return self.session.post(path, data=data, headers=headers, **kwargs)

    async def ask(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """POST a body and return the status and the JSON of the answer."""
        async with self.post(path, body) as response:
            answer: dict[str, Any] = await response.json()
            return response.status, answer

    async def submit(self, body: dict[str, Any], **headers: str) -> str:
        """Send `POST /v1/requests` and return the channel id."""
        async with self.post("/v1/requests", body, headers=headers) as response:
            assert response.status == 202, await response.text()
            channel_id: str = (await response.json())["channel_id"]
            return channel_id

    async def state(self, channel_id: str, **headers: str) -> dict[str, Any]:
        """Return the JSON of `GET /v1/channels/{channel_id}`."""
        async with self.get(f"/v1/channels/{channel_id}", headers=headers) as response:
            assert response.status == 200, await response.text()
            body: dict[str, Any] = await response.json()
            return body

    async def status(self, channel_id: str) -> str:
        """Return the status of a channel."""
        status: str = (await self.state(channel_id))["status"]
        return status

    async def is_terminal(self, channel_id: str) -> bool:
        """Return whether the channel has ended."""
        return await self.status(channel_id) not in ("queued", "running")

    def lose_its_voice(self) -> None:
        """Withhold its watches and cancels from Redis, as if its process had died."""

        async def unreachable(*_: object, **__: object) -> None:
            raise StoreUnavailable("this orchestrator is gone")

        for name in ("watch", "cancel"):
            setattr(self.parts.queue, name, unreachable)


@asynccontextmanager
async def open_front(redis_url: str, **environ: str) -> AsyncIterator[Front]:
    """Yield an orchestrator on its own port."""
    async with open_orchestrator(orchestrator_settings(redis_url, **environ)) as (parts, port):
        url = f"http://127.0.0.1:{port}"
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            url,
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=LIVENESS_S),
            response_class=DocumentedResponse,
        ) as session:
            yield Front(parts, url, session)


class Stack:
    """Everything opened on one Redis; `close` ends the rest in reverse order."""

    def __init__(self, redis_url: str, store: RedisStore, stack: AsyncExitStack) -> None:
        self.redis_url = redis_url
        self.store = store
        self._stack = stack
        self._fronts: dict[int, Owned[Front]] = {}
        self.workers: list[Worker] = []

    @classmethod
    async def open(cls, redis_url: str) -> Stack:
        """Open a stack on this Redis."""
        stack = AsyncExitStack()
        store = await stack.enter_async_context(open_store(RedisSettings(redis_url)))
        return cls(redis_url, store, stack)

    async def close(self) -> None:
        """Close everything that is still open."""
        await self._stack.aclose()

    async def front(self, **environ: str) -> Front:
        """Open an orchestrator."""
        owned = Owned(open_front(self.redis_url, **environ))
        self._stack.push_async_callback(owned.leave)
        front = await owned.enter()
        self._fronts[id(front)] = owned
        return front

    async def close_front(self, front: Front) -> None:
        """Close one orchestrator."""
        await self._fronts[id(front)].leave()

    async def worker(self, **options: Any) -> Worker:
        """Open a worker with options of `relais_testing.worker.open_worker`."""
        owned = Owned(open_worker(self.redis_url, **options))
        self._stack.push_async_callback(owned.leave)
        worker = await owned.enter()
        self.workers.append(worker)
        return worker

    async def idle(self) -> bool:
        """Return whether nothing waits or runs."""
        depth = await self.store.intake.depth(MODEL)
        return depth.waiting == 0 and depth.running == 0


def chat_request(content: str = "hello", **fields: Any) -> dict[str, Any]:
    """Return a body for `/v1/chat/completions` or `/v1/requests`."""
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}


def answer_to(content: str, count: int = DEFAULT_ANSWER_TOKENS, index: int = 0) -> str:
    """Return the deterministic engine's answer to `chat_request(content)`; of several, this one."""
    return answer_to_prompt(f"<user>{content}<assistant>", count, index)


def answer_to_prompt(prompt: str, count: int, index: int = 0) -> str:
    """Return the deterministic engine's answer to a plain prompt."""
    return answer_text(list(prompt.encode()), count, index)
