"""Looking at a server: does it answer, and what does it serve?"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import orjson
from aiohttp import ClientError, ClientSession, ClientTimeout

from relais_common.backoff import Backoff
from relais_common.errors import RelaisError
from relais_llm_worker.remote.bodies import COMPLETIONS
from relais_llm_worker.remote.errors import TryFailed
from relais_llm_worker.remote.exchange import Client
from relais_llm_worker.remote.server import Served, Server

ANSWER_TIMEOUT_S = 10.0
_VLLM = "vllm"
_PATIENCE = 2
"""Silences in a row after which a server counts as down: a busy one may miss one."""


async def probe_for_ever(
    session: ClientSession,
    client: Client,
    server: Server,
    models: Collection[str],
    *,
    every_s: float,
    connect_timeout_s: float,
) -> None:
    """Look every `every_s` seconds, sooner while it is down."""
    timeout = ClientTimeout(total=ANSWER_TIMEOUT_S, sock_connect=connect_timeout_s)
    backoff = Backoff(longest_s=every_s)
    silences = 0
    while True:
        was_down = server.why_down is not None
        try:
            cards = await _look(session, server, timeout)
        except TimeoutError:
            silences += 1
            if silences >= _PATIENCE or was_down:
                server.note_down("it does not answer in time")
        except (ClientError, OSError, ValueError) as error:
            server.note_down(str(error) if isinstance(error, _Unfit) else type(error).__name__)
        else:
            silences = 0
            # What it runs may have changed only while it was away.
            if was_down or frozenset(cards) != server.listed:
                await _note(client, server, models, cards)
        if server.why_down is None:
            backoff.reset()
            await server.doubted(every_s)
        else:
            await backoff.pause()


class _Unfit(ValueError):
    """It answers, and cannot be used."""


async def _look(
    session: ClientSession, server: Server, timeout: ClientTimeout
) -> dict[str, dict[str, Any]]:
    """Its models' cards by name; none where it lists no models.

    Raises:
        ClientError, TimeoutError, OSError, ValueError: it cannot be used.
    """
    health = await _get(session, server, "/health", timeout)
    if isinstance(health, int) and health not in (401, 403, 404, 405):
        raise _Unfit(f"/health answers {health}")
    listed = await _get(session, server, "/v1/models", timeout)
    if isinstance(listed, int):
        if listed in (404, 405) and not isinstance(health, int):
            return {}
        raise _Unfit(f"/v1/models answers {listed}")
    try:
        return {str(card["id"]): card for card in orjson.loads(listed)["data"]}
    except (ValueError, TypeError, KeyError):
        raise _Unfit("/v1/models answers nothing of OpenAI's") from None


async def _get(
    session: ClientSession, server: Server, path: str, timeout: ClientTimeout
) -> bytes | int:
    """The body, or the status where it is not 200."""
    async with session.get(
        server.url + path, headers=server.headers, timeout=timeout, allow_redirects=False
    ) as response:
        return await response.read() if response.status == 200 else response.status


async def _note(
    client: Client, server: Server, models: Collection[str], cards: dict[str, dict[str, Any]]
) -> None:
    served: dict[str, Served] = {}
    missing: dict[str, str] = {}
    for model in models:
        card = cards.get(model)
        if card is not None and card.get("owned_by") == _VLLM:
            served[model] = await _vllm_s(client, server, model, card)
        elif any(one.get("owned_by") == _VLLM for one in cards.values()):
            missing[model] = f"it serves {', '.join(cards)}, not this model"
        else:
            # Others take other names than they list: Ollama adds a tag, llama.cpp lists a file and takes any.
            length = (card or {}).get("max_model_len")
            served[model] = Served(max_model_len=length if isinstance(length, int) else None)
    server.note_up(served, missing, set(cards))


async def _vllm_s(client: Client, server: Server, model: str, card: dict[str, Any]) -> Served:
    """vLLM's card names the weights' place; an answer's fingerprint tells version, precision and the like."""
    body = {"model": model, "prompt": ".", "max_tokens": 1, "temperature": 0}
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            answer = await client.call(server, COMPLETIONS, body)
        fingerprint = answer.get("system_fingerprint")
    except (TryFailed, RelaisError, TimeoutError):
        fingerprint = None
    length = card.get("max_model_len")
    return Served(
        revision=f"{card.get('root')}|{length}|{fingerprint}",
        max_model_len=length if isinstance(length, int) else None,
        tells_ids=True,
    )
