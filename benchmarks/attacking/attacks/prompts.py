"""Texts far over what a model reads."""

from __future__ import annotations

from benchmarks.attacking.attacker import Attacker
from benchmarks.attacking.keys import ATTACKERS, VECTORS
from relais_testing.process_stack import MODEL

SIZE = 4_000_000


async def long_prompts(attacker: Attacker) -> None:
    """Sixteen prompts of 4 MB at once, from three keys, over and over."""
    texts = ("one more word " * (SIZE // 14), "a" * SIZE, "é1 " * (SIZE // 4))

    async def one(number: int) -> None:
        messages = [{"role": "user", "content": f"{number} {texts[number % len(texts)]}"}]
        body = {"model": MODEL, "messages": messages, "max_tokens": 8}
        key = ATTACKERS[number % len(ATTACKERS)]
        await attacker.send("/v1/chat/completions", body, key=key)

    await attacker.over_and_over(one, at_once=16, most=48)


async def long_texts(attacker: Attacker) -> None:
    """Sixteen requests at once for vectors of 4 MB: of one text, or of 2,048."""
    all_inputs = (["word " * 390] * 2048, ["word " * (SIZE // 5)])
    requests = [("/v1/embeddings", {"model": VECTORS, "input": one}) for one in all_inputs]
    await attacker.send_in_turns(requests, at_once=16, most=32)
