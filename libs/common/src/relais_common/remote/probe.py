"""Probes a server: whether it answers, and what it serves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout

from relais_common.remote.errors import TryFailed
from relais_common.remote.refusals import read_capped
from relais_common.remote.server import MAX_COUNT, Served, Server
from relais_common.runtime.backoff import Backoff

ANSWER_TIMEOUT_S = 10.0
MAX_LIST_BYTES = 1 << 20
MAX_NAME_LENGTH = 500
MAX_NAMED = 5
_VLLM = "vllm"
_PATIENCE = 2
"""Consecutive unanswered probes after which a server counts as down; a busy one may miss one."""


Identify = Callable[[Server, str, dict[str, Any], int | None], Awaitable[Served]]
"""Finds out what a server of vLLM's runs as a model, given the model's card and context length."""


async def probe_for_ever(
    session: ClientSession,
    server: Server,
    models: Collection[str],
    identify: Identify,
    *,
    every_s: float,
    connect_timeout_s: float,
) -> None:
    """Probe the server every `every_s` seconds, more often while it is down."""
    timeout = ClientTimeout(total=ANSWER_TIMEOUT_S, sock_connect=connect_timeout_s)
    backoff = Backoff(longest_s=every_s)
    silences = 0
    while True:
        was_down = server.why_down is not None
        server.begin_look()
        try:
            cards = await _look(session, server, timeout)
        except TimeoutError:
            silences += 1
            if silences >= _PATIENCE or was_down:
                server.note_down("it does not answer in time")
        except (ClientError, OSError, ValueError, TryFailed) as error:
            known = isinstance(error, (_Unfit, TryFailed))
            server.note_down(str(error) if known else type(error).__name__)
        else:
            silences = 0
            # What it runs may have changed only while it was away.
            if was_down or frozenset(cards) != server.listed:
                await _note(server, models, identify, cards)
            else:
                server.note_looked()
        if server.why_down is None:
            backoff.reset()
            await server.doubted(every_s)
        else:
            await backoff.pause()


class _Unfit(ValueError):
    """The server answers but cannot be used."""


async def _look(
    session: ClientSession, server: Server, timeout: ClientTimeout
) -> dict[str, dict[str, Any]]:
    """Return the cards of its models by name; empty if it lists none.

    Raises:
        ClientError, TimeoutError, OSError, ValueError: it cannot be used.
    """
    async with _get(session, server, "/health", timeout) as response:
        health = response.status
    if health not in (200, 401, 403, 404, 405):
        raise _Unfit(f"/health answers {health}")
    async with _get(session, server, "/v1/models", timeout) as response:
        if response.status in (404, 405) and health == 200:
            return {}
        if response.status != 200:
            raise _Unfit(f"/v1/models answers {response.status}")
        listed = await read_capped(response, MAX_LIST_BYTES, ANSWER_TIMEOUT_S)
    try:
        cards = orjson.loads(listed)["data"]
        return {
            card["id"]: card
            for card in cards
            if isinstance(card["id"], str) and len(card["id"]) <= MAX_NAME_LENGTH
        }
    except (ValueError, TypeError, KeyError):
        raise _Unfit("/v1/models answers nothing of OpenAI's") from None


@asynccontextmanager
async def _get(
    session: ClientSession, server: Server, path: str, timeout: ClientTimeout
) -> AsyncIterator[ClientResponse]:
    """Yield the response to a GET, and close its connection."""
    response = await session.get(
        server.url + path, headers=server.headers, timeout=timeout, allow_redirects=False
    )
    try:
        yield response
    finally:
        # With something left to read, the connection is of no use any more.
        if response.content.at_eof():
            response.release()
        else:
            response.close()


async def _note(
    server: Server,
    models: Collection[str],
    identify: Identify,
    cards: dict[str, dict[str, Any]],
) -> None:
    served: dict[str, Served] = {}
    missing: dict[str, str] = {}
    for model in models:
        card = cards.get(model)
        if card is not None and card.get("owned_by") == _VLLM:
            served[model] = await identify(server, model, card, _context(card))
        elif any(one.get("owned_by") == _VLLM for one in cards.values()):
            names = ", ".join(list(cards)[:MAX_NAMED])
            missing[model] = f"it serves {names}, not this model"
        else:
            # Others take other names than they list: Ollama adds a tag, llama.cpp lists a file and takes any.
            served[model] = Served(max_model_len=_context(card or {}))
    server.note_up(served, missing, set(cards))


def _context(card: dict[str, Any]) -> int | None:
    length = card.get("max_model_len")
    return length if type(length) is int and 0 < length <= MAX_COUNT else None


def short_word(given: object) -> str | None:
    """Return a word that is short enough to be kept; None for anything else."""
    return given if isinstance(given, str) and len(given) <= MAX_NAME_LENGTH else None
