"""Calls `/v1/files` and `/v1/batches`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import IO, Any

import aiohttp
import orjson

from relais_common.jobs.errors import RelaisError
from relais_common.runtime.backoff import Backoff

ENDED = ("completed", "failed", "expired", "cancelled")
CHUNK_BYTES = 1 << 20
MAX_EVENT_BYTES = 1 << 20

Batch = dict[str, Any]


class ApiError(RelaisError):
    """The API refused a call, or nobody answers."""


class ApiUnavailable(ApiError):
    """The API may answer the same call later."""


class BatchApi:
    """One API, as one key. Every method raises ApiError."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url.rstrip("/")

    async def upload(self, content: IO[bytes], filename: str) -> str:
        """Upload an input file and return its id."""
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        form.add_field("file", content, filename=filename)
        return str((await self._json("POST", "/files", data=form))["id"])

    async def create(
        self, file_id: str, *, endpoint: str, window: str, metadata: Mapping[str, str]
    ) -> Batch:
        """Create a batch."""
        body = {
            "input_file_id": file_id,
            "endpoint": endpoint,
            "completion_window": window,
            "metadata": dict(metadata) or None,
        }
        return await self._json("POST", "/batches", json=body)

    async def show(self, batch_id: str) -> Batch:
        """Return a batch."""
        return await self._json("GET", f"/batches/{batch_id}")

    async def cancel(self, batch_id: str) -> Batch:
        """Ask for a batch's end."""
        return await self._json("POST", f"/batches/{batch_id}/cancel")

    async def list(self) -> list[Batch]:
        """Return the last batches, the newest first."""
        page = await self._json("GET", "/batches", params={"limit": "100"})
        return list(page["data"])

    async def watch(self, batch_id: str) -> AsyncIterator[Batch]:
        """Yield the batch now and whenever it has changed, until it has ended; over any number of connections."""
        backoff = Backoff()
        while True:
            try:
                async with self._open("GET", f"/batches/{batch_id}/events") as response:
                    async for line in response.content:
                        if line.startswith(b"data: "):
                            backoff.reset()
                            batch = orjson.loads(line.removeprefix(b"data: "))
                            if "error" in batch:
                                raise ApiError(batch["error"]["message"])
                            yield batch
                            if batch["status"] in ENDED:
                                return
            except (aiohttp.ClientError, TimeoutError, ApiUnavailable):
                pass  # whoever answers next goes on
            await backoff.pause()

    async def download(self, file_id: str, to: IO[bytes]) -> None:
        """Write a file's content."""
        async with _errors(), self._open("GET", f"/files/{file_id}/content") as response:
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                await asyncio.to_thread(to.write, chunk)

    async def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        async with _errors(), self._open(method, path, **options) as response:
            body: dict[str, Any] = await response.json()
            return body

    @asynccontextmanager
    async def _open(
        self, method: str, path: str, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        async with self._session.request(method, self._url + path, **options) as response:
            if response.status != 200:
                is_busy = response.status == 429 or response.status >= 500
                raise (ApiUnavailable if is_busy else ApiError)(await _message(response))
            yield response


@asynccontextmanager
async def open_api(url: str, key: str | None) -> AsyncIterator[BatchApi]:
    """Return the API at this URL."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    # Uploads, downloads and watching take as long as they take; silence does not.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)
    async with aiohttp.ClientSession(
        headers=headers, timeout=timeout, read_bufsize=MAX_EVENT_BYTES
    ) as session:
        yield BatchApi(session, url)


@asynccontextmanager
async def _errors() -> AsyncIterator[None]:
    try:
        yield
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ApiError(f"no answer: {str(error) or type(error).__name__}") from error


async def _message(response: aiohttp.ClientResponse) -> str:
    try:
        return str((await response.json())["error"]["message"])
    except (aiohttp.ContentTypeError, ValueError, LookupError, TypeError):
        return f"{response.url}: HTTP {response.status}"
