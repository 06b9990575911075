"""Attacks one after another, beside something else that goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import cycle

from benchmarks.attacking.attacker import attacker_of
from benchmarks.attacking.attacks import ATTACKS
from relais_common.runtime.lifecycle import background

NEEDS_VECTORS = frozenset({"unread-vectors", "fill-with-vectors"})
SECONDS = 10.0


@asynccontextmanager
async def attacks_beside(
    urls: Callable[[], Sequence[str]], *, seconds: float = SECONDS
) -> AsyncIterator[dict[str, Counter[str]]]:
    """Inside, each attack that needs neither vLLM nor vectors runs for so long, in turns.

    Yields what their senders got, by attack; it grows meanwhile.
    """
    attacks = [
        one
        for one in ATTACKS.values()
        if one.engine == "deterministic" and one.name not in NEEDS_VECTORS
    ]
    got: dict[str, Counter[str]] = {}

    async def run() -> None:
        for attack in cycle(attacks):
            async with attacker_of(urls, seconds) as attacker:
                await attack.act(attacker)
                await attacker.rest()
            got.setdefault(attack.name, Counter()).update(attacker.got)

    async with background(run()):
        yield got
