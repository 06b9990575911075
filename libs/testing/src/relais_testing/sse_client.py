"""Reads server-sent events by the rules of the HTML standard."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp


@dataclass(frozen=True)
class SseEvent:
    """One event; `id` is empty if the frame had none."""

    id: str
    name: str
    data: str

    @property
    def json(self) -> Any:
        return json.loads(self.data)


async def sse_events(response: aiohttp.ClientResponse) -> AsyncIterator[SseEvent]:
    """Yield events until the response ends. Comments and an incomplete event are dropped."""
    fields: dict[str, str] = {}
    async for raw in response.content:
        line = raw.decode().rstrip("\n")
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
            continue
        if "data" in fields:
            yield SseEvent(fields.get("id", ""), fields.get("event", "message"), fields["data"])
        fields = {}


async def read_events(
    session: aiohttp.ClientSession, url: str, *, after: int | None = None, stop_after: int = 10**9
) -> list[SseEvent]:
    """Read a channel's stream to its end, or until `stop_after` events have come.

    A waiting request's place in the queue, which is told now and then and is no event of the log, is left out.
    """
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    events: list[SseEvent] = []
    async with session.get(url, headers=headers) as response:
        assert response.status == 200, (response.status, await response.text())
        async for event in sse_events(response):
            if event.name == "queued" and not event.id:
                continue
            events.append(event)
            if len(events) >= stop_after:
                break
    return events


def text_of(events: list[SseEvent]) -> str:
    """Return the text of a native stream's tokens."""
    return "".join(event.json["text"] for event in events if event.name == "token")


def ids_of(events: list[SseEvent]) -> list[int]:
    """Return the ids of events."""
    return [int(event.id) for event in events]
