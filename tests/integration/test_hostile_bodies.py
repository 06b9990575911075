"""Costly bodies over HTTP: rights are checked before they are read, and no other key waits for them."""

from __future__ import annotations

import asyncio
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from relais_orchestrator.api import accepting
from relais_orchestrator.api.table import SUBMITTING
from relais_orchestrator.submission.reading import Reading, read
from relais_orchestrator.submission.reading.readers import Readers
from relais_testing.builders import MODEL
from relais_testing.keys import KeyFile, bearer
from relais_testing.stack import Front, Stack, chat_request
from relais_testing.worst_bodies import PATHS, ids_written_as_fractions

EMBEDDER = "org/embedder"


@pytest.fixture
def key_file(tmp_path: Path) -> KeyFile:
    return KeyFile(
        tmp_path / "keys.json",
        bad={},
        good={},
        none={"models": []},
        slow={"requests_per_minute": 2},
    )


@pytest.fixture
async def front(stack: Stack, key_file: KeyFile) -> Front:
    return await stack.front(
        **key_file.settings, MODELS=f"{MODEL},{EMBEDDER}", EMBEDDING_MODELS=EMBEDDER
    )


@pytest.fixture
def bodies_read(monkeypatch: pytest.MonkeyPatch) -> list[Reading]:
    """Those that were looked at beyond their model."""
    seen: list[Reading] = []
    reading = Readers.read

    async def noting(self: Readers, route: Reading, body: bytes, key_id: str) -> Any:
        seen.append(route)
        return await reading(self, route, body, key_id)

    monkeypatch.setattr(Readers, "read", noting)
    return seen


async def status(front: Front, path: str, body: Any, client: str) -> int:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **bearer(client)}
    # Not as bytes: aiohttp's client warns of large ones.
    async with front.session.post(path, data=io.BytesIO(data), headers=headers) as response:
        await response.read()
        return int(response.status)


def test_every_route_that_takes_bodies_is_attacked() -> None:
    # Of two names of one route, one will do.
    assert set(PATHS.values()) == SUBMITTING - {"/tokenize", "/detokenize", "/classify"}


async def test_rights_and_model_come_before_the_body(
    front: Front, bodies_read: list[Reading], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {"model": "nobody/knows", "input": [None] * 100_000}
    for path in PATHS.values():
        assert await status(front, path, wrong, "bad") == 404
    # Of two names the last counts, here as in the whole body.
    twice = b'{"model":"%b",%b' % (MODEL.encode(), json.dumps(wrong).encode()[1:])
    assert await status(front, PATHS[Reading.CHAT], twice, "bad") == 404
    monkeypatch.setattr(accepting, "read_body", None)  # no byte of it
    for path in PATHS.values():
        assert await status(front, path, {**wrong, "model": MODEL}, "none") == 404
    assert bodies_read == []


async def test_refused_bodies_count_as_their_key_s_requests(
    front: Front, bodies_read: list[Reading]
) -> None:
    wrong = chat_request("x") | {"params": {"temperature": "hot"}}
    seen = [await status(front, "/v1/requests", wrong, "slow") for _ in range(4)]
    assert seen == [400, 400, 429, 429]
    assert len(bodies_read) == 2
    assert await status(front, "/v1/requests", wrong, "bad") == 400


async def test_a_body_that_waits_to_be_read_counts_as_held(
    stack: Stack, key_file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds = {"MAX_BODY_BYTES": "150000", "MAX_HELD_BYTES_PER_KEY": "150000"}
    front = await stack.front(**key_file.settings, **bounds)
    waiting, may_read = asyncio.Event(), asyncio.Event()
    reading = Readers.read

    async def late(self: Readers, route: Reading, body: bytes, key_id: str) -> Any:
        if len(body) > 100_000:
            waiting.set()
            await may_read.wait()
        return await reading(self, route, body, key_id)

    monkeypatch.setattr(Readers, "read", late)
    large = chat_request("x" * 100_000)
    first = asyncio.create_task(status(front, "/v1/requests", large, "bad"))
    await waiting.wait()
    # Another key's is read.
    other = asyncio.create_task(status(front, "/v1/requests", large, "good"))
    assert await status(front, "/v1/requests", large, "bad") == 429
    assert await status(front, "/v1/requests", chat_request("hello"), "good") == 202
    may_read.set()
    assert (await first, await other) == (202, 202)
    assert await status(front, "/v1/requests", large, "bad") == 202


async def test_nobody_waits_for_another_key_s_costly_bodies(front: Front) -> None:
    costly = ids_written_as_fractions(EMBEDDER)[:-2] + b',"x"]}'
    began_s = time.thread_time()
    with pytest.raises(Exception, match="input"):
        read(Reading.EMBEDDINGS, costly)
    in_place_s = time.thread_time() - began_s

    steps: list[float] = []

    async def watch() -> None:
        """Processor time that this thread, the server's too, takes between two looks."""
        while True:
            before_s = time.thread_time()
            await asyncio.sleep(0)
            steps.append(time.thread_time() - before_s)

    async def victim() -> None:
        for _ in range(10):
            assert await status(front, "/v1/requests", chat_request("hello"), "good") == 202
            async with front.get("/healthz") as response:
                assert response.status == 200

    await status(front, PATHS[Reading.EMBEDDINGS], costly, "bad")  # starts the process
    attack = [
        asyncio.create_task(status(front, PATHS[Reading.EMBEDDINGS], costly, "bad"))
        for _ in range(5)
    ]
    await asyncio.sleep(0)
    watching = asyncio.create_task(watch())
    await victim()
    served = sum(one.done() for one in attack)
    assert await asyncio.gather(*attack) == [400] * 5
    watching.cancel()
    # The victim had its ten answers while the other's bodies were still being read.
    assert served < 5
    assert max(steps) < in_place_s / 2
