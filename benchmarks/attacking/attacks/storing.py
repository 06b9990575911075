"""Filling what Redis may hold."""

from __future__ import annotations

from benchmarks.attacking.attacker import Attacker
from benchmarks.attacking.keys import ATTACKERS, VECTORS
from relais_testing.process_stack import MODEL


async def fill_with_vectors(attacker: Attacker) -> None:
    """Requests of one key for 2,048 vectors each, more than the model's share of Redis holds."""

    async def one(number: int) -> None:
        inputs = [f"text {number} {at}" for at in range(2048)]
        path = "/v1/requests" if number % 2 else "/v1/embeddings"
        await attacker.send(path, {"model": VECTORS, "input": inputs})

    await attacker.over_and_over(one, at_once=16, most=300)


async def idempotency_keys(attacker: Attacker) -> None:
    """Requests of one token, each under an `Idempotency-Key` of its own, from three keys."""
    body = {"model": MODEL, "prompt": "a", "params": {"max_tokens": 1}}

    async def one(number: int) -> None:
        headers = {"Idempotency-Key": f"{number}-" + "k" * 200}
        key = ATTACKERS[number % len(ATTACKERS)]
        await attacker.send("/v1/requests", body, key=key, headers=headers)

    await attacker.over_and_over(one, at_once=16, most=20_000)
