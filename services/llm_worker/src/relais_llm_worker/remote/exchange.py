"""Sends one request to one server, and yields the chunks of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, NoReturn

from aiohttp import ClientError, ClientResponse, ClientSession

from relais_common.jobs.errors import EngineFailed, RelaisError, UpstreamRefused
from relais_common.remote.client import Client, words_of
from relais_common.remote.errors import Lost, TooMuch, TryFailed
from relais_common.remote.refusals import (
    exceeds_context,
    meaning,
    read_error,
    refusal,
    require_plain,
)
from relais_common.remote.server import Server
from relais_common.remote.settings import RemoteSettings
from relais_llm_worker.remote.bodies import CHAT, Question
from relais_llm_worker.remote.bounds import Bounds
from relais_llm_worker.remote.chunk_turns import ChunkTurns
from relais_llm_worker.remote.chunks import ChunkReader, Delta
from relais_llm_worker.remote.sse import read_events

LAST_WORDS_TIMEOUT_S = 5.0
END_TIMEOUT_S = 0.2
END_BYTES = 64 << 10
_STREAM_TYPES = frozenset(("text/event-stream", "text/plain", "application/octet-stream"))
"""Media types of streams: some servers use text, and aiohttp reports the last one if there is none."""


class StreamingClient(Client):
    """Sends requests, and reads streams.

    Args:
        ignore: called with a model's name and a field for each omitted value of an answer.
    """

    def __init__(
        self,
        session: ClientSession,
        settings: RemoteSettings,
        ignore: Callable[[str, str], None],
    ) -> None:
        super().__init__(session, settings)
        self._ignore = ignore
        self._turns = ChunkTurns()

    async def stream(
        self, server: Server, question: Question, bounds: Bounds
    ) -> AsyncGenerator[Delta]:
        """Yield chunks as they arrive, the last one with token counts. Closing it early stops the server.

        Raises:
            TryFailed: another try may succeed.
            EngineRefused: the server rejects the request as invalid.
            EngineFailed: the server failed on this request.
        """
        model = question.body["model"]
        reader = ChunkReader(bounds, lambda field: self._ignore(model, field), _fail)
        response = await self.post(server, question.path, question.body)
        whole = False
        try:
            await _require_stream(response)
            chunks = _Chunks(response, reader, bounds.stream_bytes, self._turns)
            async with aclosing(chunks.read()) as deltas:
                last: Delta | None = None
                async for delta in deltas:
                    if delta.finish_reason is not None:
                        last = delta
                        break
                    yield delta
                if last is None:
                    if not (chunks.done and reader.said_something):
                        raise Lost("the stream ended before the answer did")
                    last = Delta(finish_reason="stop")
                async with aclosing(_last_words(last, deltas)) as words:
                    async for last in words:
                        if last.finish_reason is None:
                            yield last
                whole = await _read_to_end(response)
            yield replace(last, counts=reader.counts)
        except UpstreamRefused as error:
            limit = server.served(model).max_model_len
            param = "messages" if question.path == CHAT else "prompt"
            raise exceeds_context(error, limit, param) from None
        except TooMuch:
            raise EngineFailed(
                f"the model's server sent more than {bounds.tokens} tokens can hold"
            ) from None
        finally:
            # A connection read to its end can serve another request; otherwise closing it stops the server.
            if whole:
                response.release()
            else:
                response.close()


class _Chunks:
    """Reads a response's chunks.

    Attributes:
        done: whether the server has ended the stream.
    """

    def __init__(
        self, response: ClientResponse, reader: ChunkReader, most_bytes: int, turns: ChunkTurns
    ) -> None:
        self._response = response
        self._turns = turns
        self._reader = reader
        self._most_bytes = most_bytes
        self.done = False

    async def read(self) -> AsyncGenerator[Delta]:
        """Yield deltas until `[DONE]` or the end of the connection. Raises as `ChunkReader.read` does."""
        pieces = self._response.content.iter_any()
        try:
            async with aclosing(read_events(pieces, self._most_bytes)) as events:
                async for event in events:
                    if event.data == b"[DONE]":
                        self.done = True
                        return
                    if not self._turns.take():
                        await self._turns.wait()
                    if (delta := self._reader.read(event)) is not None:
                        yield delta
        except (ClientError, TimeoutError, OSError) as error:
            raise Lost(words_of(error)) from error


def _fail(chunk: Any) -> NoReturn:
    """Raise the error that a status would raise which the stream's error names; without one, Lost."""
    said = read_error(chunk)
    error = meaning(said.status or 502, said)
    if isinstance(error, EngineFailed):
        raise Lost("the server broke off with an error")
    raise error


async def _last_words(last: Delta, deltas: AsyncGenerator[Delta]) -> AsyncGenerator[Delta]:
    """Yield what follows a finish reason: usually the counts.

    Some servers send a reason with every chunk; only the last delta yielded here has one.
    """
    loop = asyncio.get_running_loop()
    until_s = loop.time() + LAST_WORDS_TIMEOUT_S
    while True:
        try:
            async with asyncio.timeout_at(until_s):
                delta = await anext(deltas, None)
        except (TryFailed, TooMuch, RelaisError, TimeoutError):
            break  # the answer is whole without it
        if delta is None:
            break
        if delta.text or delta.token_ids or delta.aside:
            yield replace(last, finish_reason=None)
            last = replace(delta, finish_reason=delta.finish_reason or last.finish_reason)
            until_s = loop.time() + LAST_WORDS_TIMEOUT_S
    yield last


async def _read_to_end(response: ClientResponse) -> bool:
    """Read to the end of the body, so that the connection can be reused; return whether it ended."""
    left = END_BYTES
    try:
        async with asyncio.timeout(END_TIMEOUT_S):
            async for piece in response.content.iter_any():
                left -= len(piece)
                if left < 0:
                    return False
    except (ClientError, TimeoutError, OSError):
        return False
    return True


async def _require_stream(response: ClientResponse) -> None:
    if response.status != 200:
        raise await refusal(response)
    require_plain(response)
    if response.content_type not in _STREAM_TYPES:
        raise Lost(f"the answer is no stream of events but {response.content_type[:100]}")
