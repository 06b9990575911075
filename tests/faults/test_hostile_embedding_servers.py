"""Servers behind an embedding worker that attack it: their own request fails, and nobody else's is any the worse."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from relais_testing.hostile_openai import ATTACKS, VECTOR_ATTACKS, open_hostile_server
from relais_testing.process_stack import Starter
from relais_testing.waiting import wait_until

ATTACKED, OTHER = "attacked", "other"
ATTACKERS, VICTIM = "attacker", "victim"
MEBIBYTE = 1 << 20
STATUS_OF = {
    "too_many_requests": 503,
    "far_retry": 503,
    "forbidden": 403,
    "long_message": 422,
    "endless_error": 400,
    "deep_error": 400,
    "compressed_error": 400,
    "wrong_key": 502,
    "not_found": 502,
}
SHARED = (
    *STATUS_OF,
    *("redirect", "page", "compressed", "chunked_lies", "no_http", "endless_headers"),
)


@pytest.mark.realtime  # a silent server is told from a slow one by the time it takes
async def test_no_attack_of_an_embedding_server_reaches_others(
    start: Starter, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"attackers": ATTACKERS, "victims": VICTIM}))
    async with open_hostile_server(ATTACKED) as server, open_hostile_server(OTHER) as other:
        table = repr([(ATTACKED, server.url), (OTHER, other.url)])
        front = start(
            "orchestrator",
            MODELS="",
            EMBEDDING_MODELS="",
            EMBEDDING_TABLE=table,
            API_KEYS=str(keys),
        )
        worker = await asyncio.to_thread(
            start,
            "embedding_worker",
            EMBEDDING_ENGINE="remote",
            EMBEDDING_TABLE=table,
            REMOTE_PROBE_EVERY_S="0.2",
            REMOTE_READ_TIMEOUT_S="1.5",
        )

        async def embed(model: str, word: str, key: str) -> tuple[int, dict[str, Any]]:
            async with session.post(
                f"{front.url}/v1/embeddings",
                json={"model": model, "input": word},
                headers={"Authorization": f"Bearer {key}"},
            ) as response:
                return response.status, await response.json()

        async def require_served(model: str) -> None:
            status, body = await embed(model, "hello", VICTIM)
            assert (status, body["data"][0]["embedding"]) == (200, [1.0, 2.0]), body

        def memory() -> int:
            return int(psutil.Process(worker.pid).memory_info().rss)

        for model in (ATTACKED, OTHER):
            await require_served(model)
        before = memory()
        wrong = []
        for name in (*SHARED, *VECTOR_ATTACKS):
            assert name in ATTACKS | VECTOR_ATTACKS
            server.asked.clear()
            attacked = asyncio.create_task(embed(ATTACKED, name, ATTACKERS))
            await wait_until(lambda: bool(server.asked))
            await require_served(ATTACKED)
            await require_served(OTHER)
            status, body = await attacked
            error = body.get("error", {"message": ""})
            if (
                status != STATUS_OF.get(name, 500)
                or len(error["message"]) > 1000
                or any(word in error["message"] for word in ("Error", "/usr", "secret"))
                or server.asked.count(name) > 6
            ):
                wrong.append(f"{name}: {status} {body} {server.asked.count(name)}")
            assert worker.alive, f"{name}\n{worker.log_tail()}"
        assert not wrong, "\n".join(wrong)
        # Allocators keep some of what they once had.
        assert memory() - before < 60 * MEBIBYTE
