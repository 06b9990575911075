"""A server behind a remote worker that turns on it."""

from __future__ import annotations

from benchmarks.attacking.attacker import Attacker
from benchmarks.attacking.keys import ATTACKERS
from benchmarks.attacking.upstream import HOSTILE_MODEL


async def _ask(attacker: Attacker, *modes: str, most: int) -> None:
    async def one(number: int) -> None:
        messages = [{"role": "user", "content": f"mode {modes[number % len(modes)]}"}]
        body = {
            "model": HOSTILE_MODEL,
            "messages": messages,
            "max_tokens": 100,
            "deadline_s": max(5.0, attacker.left_s),
        }
        key = ATTACKERS[number % len(ATTACKERS)]
        await attacker.send("/v1/chat/completions", body, key=key)

    await attacker.over_and_over(one, at_once=2 * len(modes), most=most)
    await attacker.rest()


async def false_usage(attacker: Attacker) -> None:
    """Answers whose usage is 1e30, 9e18 or a word."""
    await _ask(attacker, "usage-1e30", "usage-9e18", "usage-text", most=60)


async def endless_answers(attacker: Attacker) -> None:
    """Errors, lines and answers that go on for gigabytes, nested JSON, and silence."""
    modes = ("endless-error", "endless-line", "endless-chunks", "deep-json", "silent")
    await _ask(attacker, *modes, most=30)


async def huge_chunks(attacker: Attacker) -> None:
    """Answers of 200 MB in chunks of 1 MB."""
    await _ask(attacker, "huge-chunks", most=12)


async def refused_for_ever(attacker: Attacker) -> None:
    """Requests that the server always refuses, by 429, 403, 404 or 500."""
    await _ask(attacker, "429", "403", "404", "500", most=40)
