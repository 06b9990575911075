"""Reading server-sent events as a browser does: id, event, data."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp


@dataclass(frozen=True, slots=True)
class Frame:
    id: int
    event: str
    data: dict[str, Any]


async def read_frames(response: aiohttp.ClientResponse) -> AsyncIterator[Frame]:
    """Frames as they come; comments and hints are passed over."""
    fields: dict[str, str] = {}
    async for raw in response.content:
        line = raw.decode().rstrip("\n")
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
            continue
        if "data" in fields:
            yield Frame(int(fields["id"]), fields["event"], json.loads(fields["data"]))
        fields = {}


async def collect(
    session: aiohttp.ClientSession, url: str, *, after: int = 0, limit: int | None = None
) -> list[Frame]:
    """Frames from `after` on, up to the terminal one, or the first `limit` of them."""
    headers = {"Last-Event-ID": str(after)} if after else {}
    frames: list[Frame] = []
    async with session.get(url, headers=headers) as response:
        assert response.status == 200, await response.text()
        async for frame in read_frames(response):
            frames.append(frame)
            if len(frames) == limit:
                break
    return frames


def text_of(frames: list[Frame]) -> str:
    """The answer that the token frames spell."""
    return "".join(frame.data["text"] for frame in frames if frame.event == "token")
