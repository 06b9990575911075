"""Finds out which weights a server runs, so that an answer may continue at another."""

from __future__ import annotations

import asyncio
from typing import Any

from relais_common.jobs.errors import RelaisError
from relais_common.remote.client import Client
from relais_common.remote.errors import TryFailed
from relais_common.remote.probe import ANSWER_TIMEOUT_S, short_word
from relais_common.remote.server import Served, Server
from relais_llm_worker.remote.bodies import COMPLETIONS


async def identify(
    client: Client, server: Server, model: str, card: dict[str, Any], max_model_len: int | None
) -> Served:
    """Return what identifies the weights: the path in vLLM's card, and an answer's fingerprint."""
    body = {"model": model, "prompt": ".", "max_tokens": 1, "temperature": 0}
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            answer = await client.call_for_object(server, COMPLETIONS, body)
        fingerprint = short_word(answer.get("system_fingerprint"))
    except (TryFailed, RelaisError, TimeoutError):
        fingerprint = None
    return Served(
        revision=f"{short_word(card.get('root'))}|{max_model_len}|{fingerprint}",
        max_model_len=max_model_len,
        tells_ids=True,
    )
