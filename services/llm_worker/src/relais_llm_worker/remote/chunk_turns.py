"""Shares each turn of the event loop among the streams of all servers."""

from __future__ import annotations

import asyncio
from collections import deque

CHUNKS_PER_TURN = 100
"""Chunks of all streams that are read in one turn of the event loop: some milliseconds. Servers may send more than this
process can pass on, and what comes first must reach Redis meanwhile, as must the renewal of its leases."""


class ChunkTurns:
    """Lets streams read a chunk while this turn of the event loop has places; the others wait, first come first served.

    Args:
        most: places of one turn.
    """

    def __init__(self, most: int = CHUNKS_PER_TURN) -> None:
        self._most = most
        self._left = most
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._next: asyncio.Handle | None = None

    def take(self) -> bool:
        """Take a place of this turn; return False if there is none."""
        if self._next is None:
            self._next = asyncio.get_running_loop().call_soon(self._begin)
        if not self._left or self._waiting:
            return False
        self._left -= 1
        return True

    async def wait(self) -> None:
        """Wait for a place of a later turn, and take it."""
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        await mine

    def _begin(self) -> None:
        self._left, self._next = self._most, None
        while self._left and self._waiting:
            one = self._waiting.popleft()
            if not one.done():
                one.set_result(None)
                self._left -= 1
        if self._left < self._most:
            self._next = asyncio.get_running_loop().call_soon(self._begin)
