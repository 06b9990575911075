"""Exponential backoff, capped, with jitter so that processes do not retry in step."""

from __future__ import annotations

import asyncio
import random


class Backoff:
    """Pauses that double from `initial_s` to `longest_s`, each shortened by up to half at random."""

    __slots__ = ("_initial_s", "_longest_s", "_next_s")

    def __init__(self, initial_s: float = 0.1, longest_s: float = 2.0) -> None:
        self._initial_s = initial_s
        self._longest_s = longest_s
        self._next_s = initial_s

    async def pause(self) -> None:
        """Wait before the next attempt."""
        await asyncio.sleep(self._next_s * random.uniform(0.5, 1.0))
        self._next_s = min(self._longest_s, self._next_s * 2)

    def reset(self) -> None:
        """Start again from the initial pause, after a success."""
        self._next_s = self._initial_s
