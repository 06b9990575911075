"""A server behind a remote worker that turns on it."""

from __future__ import annotations

from benchmarks.attacking.attacker import Attacker
from benchmarks.attacking.keys import HOSTILE_MODEL


async def _ask(attacker: Attacker, *modes: str, most: int) -> None:
    common = {"model": HOSTILE_MODEL, "max_tokens": 100, "deadline_s": max(5.0, attacker.left_s)}
    messages = [[{"role": "user", "content": mode}] for mode in modes]
    requests = [("/v1/chat/completions", {**common, "messages": one}) for one in messages]
    await attacker.send_in_turns(requests, at_once=2 * len(modes), most=most)
    await attacker.rest()


async def false_usage(attacker: Attacker) -> None:
    """Answers whose usage is 1e30, 9e18 or no number."""
    await _ask(attacker, "usage_1e30", "usage_9e18", "usage_of_wrong_shape", most=60)


async def endless_answers(attacker: Attacker) -> None:
    """Errors, lines and answers that go on for 200 MB, nested JSON, and silence."""
    modes = ("endless_error", "endless_line", "tiny_chunks", "deep_json", "silent_after_text")
    await _ask(attacker, *modes, most=30)


async def huge_chunks(attacker: Attacker) -> None:
    """Answers of 200 MB in chunks of 1 MB."""
    await _ask(attacker, "chunks_of_a_mebibyte", most=12)


async def refused_for_ever(attacker: Attacker) -> None:
    """Requests that the server always refuses, by 429, 403, 404 or 500."""
    await _ask(attacker, "429", "403", "404", "500", most=40)
