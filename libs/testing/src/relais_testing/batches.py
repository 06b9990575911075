"""A client of `/v1/files` and `/v1/batches`, and the inputs that it uploads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from io import BytesIO
from typing import Any, Final

import aiohttp

from relais_testing.stack import chat_request
from relais_testing.waiting import LIVENESS_S, wait_until

CHAT: Final = "/v1/chat/completions"
ENDED = ("failed", "completed", "expired", "cancelled")


def line(number: int, *, url: str = CHAT, body: Any = None, **fields: Any) -> dict[str, Any]:
    """Return one request of an input file; `fields` replace or add fields."""
    body = chat_request(f"line {number}", max_tokens=4) if body is None else body
    return {"custom_id": f"r-{number}", "method": "POST", "url": url, "body": body} | fields


def lines(count: int, **fields: Any) -> list[dict[str, Any]]:
    """Return this many requests."""
    return [line(number, **fields) for number in range(count)]


def encode(requests: Iterable[dict[str, Any]]) -> bytes:
    """Return requests as an input file."""
    return b"".join(json.dumps(one).encode() + b"\n" for one in requests)


class BatchClient:
    """Calls the routes as one key.

    Args:
        base_url: of the orchestrator, if the session has none.
    """

    def __init__(self, session: aiohttp.ClientSession, base_url: str = "", **headers: str) -> None:
        self._session = session
        self._base_url = base_url
        self._headers = headers

    async def upload(self, content: bytes) -> str:
        """Return the file's id."""
        form = aiohttp.FormData(default_to_multipart=True)
        form.add_field("purpose", "batch")
        form.add_field("file", BytesIO(content), filename="input.jsonl")
        return str((await self.json("POST", "/v1/files", data=form))["id"])

    async def create(self, content: bytes, endpoint: str = CHAT, **fields: Any) -> str:
        """Upload the input and return the batch's id."""
        body = {
            "input_file_id": await self.upload(content),
            "endpoint": endpoint,
            "completion_window": "24h",
        }
        return str((await self.json("POST", "/v1/batches", json=body | fields))["id"])

    async def show(self, batch_id: str) -> dict[str, Any]:
        """Return the batch."""
        return await self.json("GET", f"/v1/batches/{batch_id}")

    async def cancel(self, batch_id: str) -> dict[str, Any]:
        """Cancel the batch."""
        return await self.json("POST", f"/v1/batches/{batch_id}/cancel")

    async def ended(self, batch_id: str, timeout_s: float = LIVENESS_S) -> dict[str, Any]:
        """Wait for its end."""

        async def over() -> dict[str, Any] | None:
            batch = await self.show(batch_id)
            return batch if batch["status"] in ENDED else None

        found: dict[str, Any] | None = await wait_until(over, timeout_s, every_s=0.1)
        assert found is not None
        return found

    async def content(self, file_id: str | None) -> list[dict[str, Any]]:
        """Return the lines of a file; empty if there is no file."""
        if file_id is None:
            return []
        url = f"{self._base_url}/v1/files/{file_id}/content"
        async with self._session.get(url, headers=self._headers) as response:
            assert response.status == 200, await response.text()
            return [json.loads(one) for one in (await response.read()).splitlines()]

    async def json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Send a request and return the JSON of its response, which must be a 200."""
        async with self._session.request(
            method, self._base_url + path, headers=self._headers, **options
        ) as response:
            assert response.status == 200, await response.text()
            body: dict[str, Any] = await response.json()
            return body
