"""Bounds the bytes of bodies and responses that this server holds for each key, and gives keys turns."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from weakref import WeakValueDictionary

from aiohttp import web

from relais_common.jobs.errors import ServerBusy, TooManyBytes

RETRY_AFTER_S = 2.0
KEYS = 4
"""Number of keys at their bound at which the server itself is full."""

HOLDER: web.RequestKey[str] = web.RequestKey("holder", str)
"""The key that a request's bytes count against; unset if the request has no key."""


class HeldBytes:
    """Bounds the bytes that each key, and all keys together, make this server hold.

    Bodies count while they arrive, responses until their client has read them.
    """

    def __init__(self, most_per_key: int) -> None:
        self._most_per_key = most_per_key
        self._of_key: Counter[str] = Counter()
        self._turn = asyncio.Lock()
        self._turn_of_key: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, key_id: str) -> AsyncIterator[None]:
        """Wait for a turn to produce one piece of a response. Keys take turns, and so do the responses of each key."""
        turn_of_key = self._turn_of_key.setdefault(key_id, asyncio.Lock())
        async with turn_of_key, self._turn:
            yield

    @contextmanager
    def of(self, key_id: str, size: int = 0) -> Iterator[Held]:
        """Count `size` bytes, and any added later, against the key inside the context. Raises as `Held.add` does."""
        held = Held(self, key_id)
        try:
            held.add(size)
            yield held
        finally:
            held.release()

    def add(self, key_id: str, size: int) -> None:
        """Count bytes against a key. Raises TooManyBytes or ServerBusy."""
        held = self._of_key[key_id]
        # A lone item is admitted whatever its size; otherwise it never would be.
        if held and held + size > self._most_per_key:
            raise TooManyBytes(
                f"bodies being read and answers not yet taken have at most {self._most_per_key} bytes"
                " for one key at this server",
                retry_after_s=RETRY_AFTER_S,
            )
        in_all = self._of_key.total()
        if in_all and in_all + size > KEYS * self._most_per_key:
            raise ServerBusy("this server holds too many bytes", retry_after_s=RETRY_AFTER_S)
        self._of_key[key_id] += size

    def remove(self, key_id: str, size: int) -> None:
        """Count bytes of a key no longer."""
        self._of_key[key_id] -= size
        if self._of_key[key_id] == 0:
            del self._of_key[key_id]


class Held:
    """The bytes held for one body or response."""

    def __init__(self, held: HeldBytes, key_id: str) -> None:
        self._held = held
        self._key_id = key_id
        self._size = 0

    def add(self, size: int) -> None:
        """Count more bytes. Raises TooManyBytes or ServerBusy, and then counts none of them."""
        self._held.add(self._key_id, size)
        self._size += size

    def release(self) -> None:
        """Count none of its bytes any longer."""
        self._held.remove(self._key_id, self._size)
        self._size = 0


HELD: web.AppKey[HeldBytes] = web.AppKey("held", HeldBytes)
