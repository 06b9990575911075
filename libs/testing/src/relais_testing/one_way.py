"""A TCP link that can pass requests on and withhold the answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from relais_common.runtime.lifecycle import first_failure
from relais_testing.tcp_ports import HOST


class OneWayLink:
    """A link between a client and a server on this machine, made by `open_link`."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._last_words: bytes | None = None
        self._answering = asyncio.Event()
        self._answering.set()
        self._pairs: set[asyncio.Task[None]] = set()

    def keep_answers_from(self, words: bytes) -> None:
        """Pass on the next message with these words, and withhold its answer and all later ones."""
        self._last_words = words

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = asyncio.create_task(self._join(reader, writer))
        self._pairs.add(pair)
        pair.add_done_callback(self._pairs.discard)
        # However early the pair is cancelled.
        pair.add_done_callback(lambda _: writer.close())

    async def close(self) -> None:
        for pair in self._pairs:
            pair.cancel()
        await asyncio.gather(*self._pairs, return_exceptions=True)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(HOST, self._to_port)
        try:
            with suppress(ConnectionError):
                await first_failure(
                    self._requests(reader, to_server), self._answers(from_server, writer)
                )
        finally:
            to_server.close()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if self._last_words is not None and self._last_words in data:
                self._answering.clear()
            writer.write(data)
            await writer.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await self._answering.wait()
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def open_link(to_port: int) -> AsyncIterator[tuple[OneWayLink, int]]:
    """Yield a link to a port of this machine, and the port on which it listens."""
    link = OneWayLink(to_port)
    server = await asyncio.start_server(link.accept, HOST, 0)
    try:
        yield link, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await link.close()
