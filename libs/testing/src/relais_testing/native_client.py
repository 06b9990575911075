"""Calls the native routes, for tests with real processes."""

from __future__ import annotations

from typing import Any

import aiohttp

from relais_testing.process_stack import MODEL


async def submit(
    session: aiohttp.ClientSession, base_url: str, prompt: str, tokens: int, **fields: Any
) -> str:
    """Queue a plain prompt and return the channel id. `params` in `fields` are added to `max_tokens`."""
    params = {"max_tokens": tokens, **fields.pop("params", {})}
    body = {"model": MODEL, "prompt": prompt, "params": params, **fields}
    async with session.post(f"{base_url}/v1/requests", json=body) as response:
        assert response.status == 202, await response.text()
        channel_id: str = (await response.json())["channel_id"]
        return channel_id


def events_url(base_url: str, channel_id: str) -> str:
    """Return the `events_url` of a channel."""
    return f"{base_url}/v1/channels/{channel_id}/events"


async def state_of(
    session: aiohttp.ClientSession, base_url: str, channel_id: str
) -> dict[str, Any]:
    """Return the state of a channel."""
    async with session.get(f"{base_url}/v1/channels/{channel_id}") as response:
        assert response.status == 200, await response.text()
        state: dict[str, Any] = await response.json()
        return state
