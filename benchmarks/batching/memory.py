"""What a large upload, and its validation, take of an orchestrator's memory."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import aiohttp
import psutil

from benchmarks.batching.stack import open_stack
from benchmarks.servers import forget_peak, peak_bytes_of_all
from relais_testing.batches import BatchClient, encode, line
from relais_testing.process_stack import DETERMINISTIC, MODEL
from relais_testing.waiting import wait_until

LINES = 50_000
PROMPT_BYTES = 1900


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of an orchestrator and all processes below it.

    Attributes:
        idle: before. uploading, validating, downloading: the most meanwhile.
        file_bytes: the size of the file.
    """

    file_bytes: int
    idle: int
    uploading: int
    validating: int
    downloading: int


async def measure() -> Memory:
    """Upload a file of 50,000 lines, have it validated, and download it."""
    body = {"model": MODEL, "prompt": "x" * PROMPT_BYTES, "max_tokens": 1}
    content = encode(line(number, url="/v1/completions", body=body) for number in range(LINES))
    with open_stack({**DETERMINISTIC, "DETERMINISTIC_TOKENS_PER_S": "1"}) as stack:
        pid = stack.front.pid
        async with aiohttp.ClientSession() as session:
            client = BatchClient(session, stack.front.url)
            idle = psutil.Process(pid).memory_info().rss
            forget_peak(pid)
            file_id = await client.upload(content)
            uploading = peak_bytes_of_all(pid)
            forget_peak(pid)
            fields = {"endpoint": "/v1/completions", "completion_window": "24h"}
            batch = await client.json(
                "POST", "/v1/batches", json={"input_file_id": file_id, **fields}
            )

            async def is_validated() -> bool:
                return bool((await client.show(batch["id"]))["status"] == "in_progress")

            await wait_until(is_validated, every_s=0.1)
            validating = peak_bytes_of_all(pid)
            forget_peak(pid)
            url = f"{stack.front.url}/v1/files/{file_id}/content"
            async with session.get(url) as response:
                # A slow reader.
                async for _ in response.content.iter_chunked(1 << 20):
                    await asyncio.sleep(0.02)
            return Memory(len(content), idle, uploading, validating, peak_bytes_of_all(pid))
