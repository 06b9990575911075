"""Taking every place to run."""

from __future__ import annotations

import asyncio

import orjson

from benchmarks.attacking.attacker import Attacker
from benchmarks.attacking.keys import ATTACKERS
from relais_testing.process_stack import MODEL


async def long_requests(attacker: Attacker) -> None:
    """Nine hundred requests of one key for 5,000 tokens each."""
    body = {
        "model": MODEL,
        "prompt": "all of it",
        "params": {"max_tokens": 5000, "ignore_eos": True},
        "deadline_s": max(5.0, attacker.left_s),
    }

    async def submit(_: int) -> None:
        await attacker.send("/v1/requests", body)

    await attacker.over_and_over(submit, at_once=20, most=900)
    await attacker.rest()


async def submit_and_cancel(attacker: Attacker) -> None:
    """Requests of one key for 5,000 tokens each, cancelled as soon as they may run."""
    params = {"max_tokens": 5000}
    body = {"model": MODEL, "prompt": "all of it", "params": params, "deadline_s": 20}

    async def one(_: int) -> None:
        status, answer = await attacker.send("/v1/requests", body)
        if status == 202:
            await asyncio.sleep(0.05)
            channel = orjson.loads(answer)["channel_id"]
            await attacker.send(f"/v1/channels/{channel}", method="DELETE", key=ATTACKERS[0])

    await attacker.over_and_over(one, at_once=40, most=3000)
